import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  Dialog,
  ICommandPalette,
  IToolbarWidgetRegistry,
  showDialog
} from '@jupyterlab/apputils';
import { IRunningSessionManagers } from '@jupyterlab/running';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';

import { GpuButton, GpuStatusItem } from './button';
import { gpuIcon } from './icons';
import { GpuModel } from './model';
import { extend, showNotices, tellRefusal } from './notices';
import { GpuPopover } from './popover';
import { runningAttachments } from './running';

namespace CommandIDs {
  export const open = 'elara:attach';
  export const detach = 'elara:detach';
  export const extend = 'elara:extend';
}

const NO_ARGUMENTS = { args: { type: 'object', properties: {} } };

const BUTTON = '[data-testid="elara-button"]';
const STATUS_ITEM = '[data-testid="elara-status-item"]';

/** Attach GPU: the button of the notebook toolbar, and all that belongs to it. */
const plugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyterlab-elara:plugin',
  description: 'Attach an elastic GPU to a running notebook.',
  autoStart: true,
  // The settings are named only so that the toolbar of the schema is read before notebooks are made.
  optional: [
    ISettingRegistry,
    IToolbarWidgetRegistry,
    ICommandPalette,
    IStatusBar,
    IRunningSessionManagers
  ],
  activate: (
    app: JupyterFrontEnd,
    _settings: ISettingRegistry | null,
    toolbars: IToolbarWidgetRegistry | null,
    palette: ICommandPalette | null,
    statusBar: IStatusBar | null,
    running: IRunningSessionManagers | null
  ) => {
    const model = new GpuModel(app.serviceManager.serverSettings);
    let popover: GpuPopover | null = null;
    const openAt = (anchor: HTMLElement | null) => {
      popover?.dispose();
      popover = new GpuPopover(model, anchor);
      popover.show();
    };
    const open = () => openAt(visibleAnchor());
    const detach = async () => {
      if (model.lease?.busy && !(await confirmDetach())) {
        return;
      }
      await model.detach().catch(tellRefusal);
    };

    toolbars?.addFactory(
      'Notebook',
      'elara',
      () => new GpuButton(model, openAt)
    );
    statusBar?.registerStatusItem('jupyterlab-elara:status', {
      item: new GpuStatusItem(model, openAt),
      align: 'left',
      rank: 20
    });
    running?.add(runningAttachments(model, open, () => void detach()));
    showNotices(model, open);
    addCommands(app, model, open, detach);
    for (const command of Object.values(CommandIDs)) {
      palette?.addItem({ command, category: 'GPU' });
    }
  }
};

function addCommands(
  app: JupyterFrontEnd,
  model: GpuModel,
  open: () => void,
  detach: () => Promise<void>
): void {
  const { commands } = app;
  commands.addCommand(CommandIDs.open, {
    label: 'Attach GPU…',
    caption: 'Attach a GPU to the running notebooks of this workspace',
    icon: gpuIcon,
    describedBy: NO_ARGUMENTS,
    execute: open
  });
  commands.addCommand(CommandIDs.detach, {
    label: 'Detach GPU',
    caption: 'Hand the attached GPU back, or cancel one that is starting',
    isEnabled: () => ['attached', 'pending'].includes(model.phase),
    describedBy: NO_ARGUMENTS,
    execute: detach
  });
  commands.addCommand(CommandIDs.extend, {
    label: 'Extend GPU time',
    caption: 'Keep the attached GPU for half an hour longer, or as given',
    isEnabled: () => model.phase === 'attached',
    describedBy: {
      args: {
        type: 'object',
        properties: {
          minutes: {
            type: 'number',
            description: 'For how much longer; 30 when left out'
          }
        }
      }
    },
    execute: args => extend(model, Number(args.minutes) || 30)
  });
  let phase = model.phase;
  model.changed.connect(() => {
    if (model.phase !== phase) {
      phase = model.phase;
      commands.notifyCommandChanged();
    }
  });
}

/** The button of the notebook that is shown, else the status bar's item. */
function visibleAnchor(): HTMLElement | null {
  const candidates = document.querySelectorAll<HTMLElement>(
    `${BUTTON}, ${STATUS_ITEM}`
  );
  return (
    Array.from(candidates).find(
      element => element.getClientRects().length > 0
    ) ?? null
  );
}

async function confirmDetach(): Promise<boolean> {
  const result = await showDialog({
    title: 'Detach the GPU?',
    body: 'The device is computing. Detaching stops that work, and what is on the device is lost.',
    buttons: [
      Dialog.cancelButton({ label: 'Keep it' }),
      Dialog.warnButton({ label: 'Detach anyway' })
    ]
  });
  return result.button.accept;
}

export default plugin;

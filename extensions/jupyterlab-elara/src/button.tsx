import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { gpuIcon } from './icons';
import { GpuModel } from './model';
import { describe } from './words';

/** Opens the popover beside an element. */
export type OpenPopover = (anchor: HTMLElement) => void;

/** What the toolbar button and the status-bar item have in common: they follow the model and open the popover. */
abstract class GpuWidget extends ReactWidget {
  constructor(
    protected readonly model: GpuModel,
    protected readonly open: OpenPopover
  ) {
    super();
    model.changed.connect(this._onChanged, this);
  }

  dispose(): void {
    this.model.changed.disconnect(this._onChanged, this);
    super.dispose();
  }

  private _onChanged(): void {
    this.update();
  }
}

/** The button in the notebook toolbar. */
export class GpuButton extends GpuWidget {
  constructor(model: GpuModel, open: OpenPopover) {
    super(model, open);
    this.addClass('elara-ToolbarButton');
  }

  render(): React.ReactElement {
    const { label, detail, title } = describe(this.model);
    const phase = this.model.phase;
    const off = phase === 'unavailable';
    return (
      <button
        type="button"
        className="elara-Button jp-Toolbar-item"
        data-testid="elara-button"
        data-state={phase}
        aria-haspopup="dialog"
        // Not `disabled`: the reason must be within reach of the keyboard and the screen reader.
        aria-disabled={off}
        aria-label={off ? `${label}: ${title}` : undefined}
        title={title}
        onClick={event => this.open(event.currentTarget)}
      >
        <gpuIcon.react tag="span" className="elara-Button-icon" />
        <span className="elara-Button-label">{label}</span>{' '}
        {detail && <span className="elara-Button-detail">· {detail}</span>}
      </button>
    );
  }
}

/** The item in the status bar. */
export class GpuStatusItem extends GpuWidget {
  constructor(model: GpuModel, open: OpenPopover) {
    super(model, open);
    this.addClass('elara-StatusItem');
  }

  render(): React.ReactElement {
    const { label, detail, title } = describe(this.model);
    const phase = this.model.phase;
    const text =
      phase === 'attached'
        ? `GPU: ${label} · ${detail}`
        : phase === 'pending'
          ? label
          : 'GPU: none';
    return (
      <button
        type="button"
        className="elara-StatusItem-button"
        data-testid="elara-status-item"
        data-state={phase}
        aria-haspopup="dialog"
        title={title}
        onClick={event => this.open(event.currentTarget)}
      >
        {text}
      </button>
    );
  }
}

import { Notification } from '@jupyterlab/apputils';

import { formatDuration } from './format';
import { GpuModel } from './model';
import { asRefusal } from './parts';
import { INotice } from './types';

const EXTEND_MINUTES = 30;

/** Show each notice of the model as a notification with the action that fits it. */
export function showNotices(model: GpuModel, open: () => void): void {
  let warning: string | null = null;
  const ends: string[] = [];
  model.changed.connect(() => {
    if (model.phase === 'attached') {
      // "Attach again" has no meaning any more.
      ends.splice(0).forEach(id => Notification.dismiss(id));
    }
  });
  model.noticed.connect((_, notice) => {
    if (warning !== null) {
      // One warning at a time: the later one has the right figure, and after the end none is right.
      Notification.dismiss(warning);
      warning = null;
    }
    if (notice.kind === 'ending') {
      warning = Notification.emit(notice.message, 'warning', {
        autoClose: false,
        actions: [
          {
            label: `Extend ${formatDuration(EXTEND_MINUTES * 60)}`,
            displayType: 'accent',
            callback: () => void extend(model, EXTEND_MINUTES)
          }
        ]
      });
    } else {
      ends.push(tellEnd(notice, model, open));
    }
  });
}

/** Extend, and say how it went. */
export async function extend(model: GpuModel, minutes: number): Promise<void> {
  try {
    await model.extend(minutes);
    Notification.success(
      `The GPU is yours for ${formatDuration(minutes * 60)} longer.`,
      { autoClose: 4000 }
    );
  } catch (error) {
    tellRefusal(error);
  }
}

/** A refusal as a notification, for actions outside the popover. */
export function tellRefusal(error: unknown): void {
  const { message, next_step } = asRefusal(error);
  Notification.error(`${message} ${next_step}`.trim(), { autoClose: false });
}

function tellEnd(notice: INotice, model: GpuModel, open: () => void): string {
  return Notification.emit(
    notice.message,
    notice.kind === 'lost' ? 'error' : 'warning',
    {
      autoClose: false,
      actions: [
        {
          label: 'Attach again',
          displayType: 'accent',
          callback: () => {
            const request = model.lastRequest;
            if (!request) {
              open();
              return;
            }
            model.attach({ ...request, wait: false }).catch(error => {
              tellRefusal(error);
              open();
            });
          }
        }
      ]
    }
  );
}

import { IRunningSessions } from '@jupyterlab/running';
import { Signal } from '@lumino/signaling';

import {
  deviceName,
  devicesLabel,
  formatDuration,
  formatShare,
  formatUsage
} from './format';
import { gpuIcon } from './icons';
import { GpuModel } from './model';
import { ILeaseDevice } from './types';

/** The section of the Running panel: each attached device, with Detach. */
export function runningAttachments(
  model: GpuModel,
  open: () => void,
  detach: () => void
): IRunningSessions.IManager {
  const changed = new Signal<GpuModel, void>(model);
  let shown = '';
  model.changed.connect(() => {
    // The panel draws all of its items anew at each signal, so only what it shows counts as a change.
    const now = JSON.stringify([
      model.lease?.devices,
      Math.floor((model.secondsLeft ?? 0) / 60)
    ]);
    if (now !== shown) {
      shown = now;
      changed.emit();
    }
  });
  const item = (device: ILeaseDevice): IRunningSessions.IRunningItem => ({
    icon: () => gpuIcon,
    // Short: the panel is narrow. The whole name is in the title.
    label: () => `cuda:${device.ordinal} ${devicesLabel([device])}`,
    labelTitle: () =>
      `${deviceName(device)}, share ${formatShare(device.share)}, memory ` +
      formatUsage(device.used_bytes, device.memory_bytes),
    detail: () =>
      model.secondsLeft === null ? '' : formatDuration(model.secondsLeft),
    open,
    shutdown: detach
  });
  return {
    name: 'GPU attachments',
    running: () => (model.lease?.devices ?? []).map(item),
    shutdownAll: detach,
    refreshRunning: () => void model.refresh(),
    runningChanged: changed,
    shutdownLabel: 'Detach',
    shutdownAllLabel: 'Detach All',
    shutdownAllConfirmationText:
      'Detach the GPU from all notebooks of this workspace? What is on it is lost.'
  };
}

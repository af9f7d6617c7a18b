import { GpuModel } from './model';
import { devicesLabel, formatDuration, memoryLabel } from './format';

/** What the toolbar button and the status bar say. `label` is short; `title` is the whole story. */
export interface IWords {
  label: string;
  detail: string;
  title: string;
}

export function describe(model: GpuModel): IWords {
  const status = model.status;
  switch (model.phase) {
    case 'loading':
      return {
        label: 'GPU',
        detail: '',
        title: model.problem
          ? `${model.problem.message} ${model.problem.next_step}`
          : 'Looking for GPUs'
      };
    case 'unavailable':
      return {
        label: 'Attach GPU',
        detail: '',
        title: status?.why_not ?? 'No GPU can be attached here.'
      };
    case 'detached':
      return {
        label: 'Attach GPU',
        detail: '',
        title: 'Attach a GPU to all running notebooks of this workspace'
      };
    case 'pending': {
      const queued = status?.pending?.state === 'queued';
      const position = status?.pending?.queue_position;
      return {
        label: queued
          ? position
            ? `GPU: number ${position} in the queue`
            : 'GPU: in the queue'
          : 'GPU: starting',
        detail: '',
        title: queued
          ? 'Waiting in the queue for a GPU'
          : 'The GPU is being attached'
      };
    }
    case 'attached': {
      const devices = model.lease?.devices ?? [];
      const left = model.secondsLeft;
      const time = left === null ? '' : formatDuration(left);
      const memory = memoryLabel(devices);
      const name = devicesLabel(devices);
      return {
        label: name,
        detail: [memory, time].filter(Boolean).join(' · '),
        title:
          `GPU attached: ${name}, memory ${memory}` +
          (time ? `, ${time} left` : '') +
          (status?.service.reachable === false
            ? '. The service does not answer just now; work on the GPU goes on.'
            : '')
      };
    }
  }
}

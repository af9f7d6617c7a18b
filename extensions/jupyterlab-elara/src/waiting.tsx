import * as React from 'react';

import { offerLabel } from './format';
import { GpuModel } from './model';
import { Refusal, useAction } from './parts';

/** What the popover shows while devices are on their way. */
export function PendingView(props: { model: GpuModel }): React.ReactElement {
  const { model } = props;
  const pending = model.status?.pending ?? null;
  const cancel = useAction(() => model.detach());
  const queued = pending?.state === 'queued';
  const steps: [string, boolean][] = [
    ['Request granted', !!pending && !queued],
    ['Node gets the device ready', false],
    ['Device appears in your notebooks', false]
  ];
  const ahead = pending?.queue_position ? pending.queue_position - 1 : null;
  const request = model.lastRequest;
  return (
    <div className="elara-Body">
      <p role="status" aria-live="polite">
        {queued
          ? ahead === null
            ? 'You are in the queue.'
            : ahead === 0
              ? 'You are next in the queue.'
              : `You are in the queue; ${ahead} before you.`
          : 'Getting your GPU ready. Your notebooks go on meanwhile.'}
        {request && (
          <span className="elara-Hint">
            {' '}
            Asked for{' '}
            {offerLabel({
              ...request,
              emulated: model.isEmulated(request.model)
            })}
            .
          </span>
        )}
      </p>
      <div className="elara-Progress" role="progressbar" aria-label="Attaching">
        <div />
      </div>
      {!queued && (
        <ol className="elara-Steps">
          {steps.map(([text, done], index) => (
            <li
              key={text}
              data-done={done}
              data-now={!done && (index === 0 || steps[index - 1][1])}
            >
              {text}
            </li>
          ))}
        </ol>
      )}
      {queued && (
        <p className="elara-Hint">
          You can close this; the button shows your place, and the GPU is
          attached when it is your turn.
        </p>
      )}
      <Refusal refusal={cancel.refusal} />
      <footer className="elara-Footer">
        <button
          type="button"
          className="jp-mod-styled jp-mod-reject"
          disabled={cancel.busy}
          onClick={cancel.run}
        >
          Cancel
        </button>
      </footer>
    </div>
  );
}

/** What the popover shows where nothing can be attached: why, and what to do. */
export function UnavailableView(props: {
  model: GpuModel;
}): React.ReactElement {
  const { status, problem } = props.model;
  const text = status?.why_not
    ? status.why_not
    : problem
      ? `${problem.message} ${problem.next_step}`
      : 'Asking the workspace what is there.';
  return (
    <div className="elara-Body">
      <p role="status" aria-live="polite">
        {text}
      </p>
    </div>
  );
}

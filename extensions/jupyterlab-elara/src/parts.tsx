import * as React from 'react';

import { EMULATED, formatClock, formatShare } from './format';
import { RequestError } from './request';
import { IHolder, IRefusal } from './types';

/** An asynchronous action of a button: whether it runs, and how it was refused. */
export interface IAction {
  busy: boolean;
  refusal: IRefusal | null;
  run: () => void;
  clear: () => void;
}

export function useAction(action: () => Promise<void>): IAction {
  const [busy, setBusy] = React.useState(false);
  const [refusal, setRefusal] = React.useState<IRefusal | null>(null);
  const mounted = React.useRef(true);
  React.useEffect(() => {
    mounted.current = true;
    return () => {
      mounted.current = false;
    };
  }, []);
  const run = () => {
    setBusy(true);
    setRefusal(null);
    action()
      .catch((error: unknown) => {
        if (mounted.current) {
          setRefusal(asRefusal(error));
        }
      })
      .finally(() => {
        if (mounted.current) {
          setBusy(false);
        }
      });
  };
  return { busy, refusal, run, clear: () => setRefusal(null) };
}

export function asRefusal(error: unknown): IRefusal {
  return error instanceof RequestError
    ? error
    : {
        reason: 'unexpected',
        message: 'Something went wrong in this page.',
        next_step: 'Reload the page and try again.',
        details: {}
      };
}

/** A refusal in words: what is wrong, the next step, who holds the devices and when they come free. */
export function Refusal(props: {
  refusal: IRefusal | null;
  children?: React.ReactNode;
}): React.ReactElement {
  const { refusal } = props;
  return (
    <div role="alert">
      {refusal && (
        <div className="elara-Notice elara-mod-refused">
          <p>
            <strong>{refusal.message}</strong> {refusal.next_step}
          </p>
          <Holders refusal={refusal} />
          {props.children}
        </div>
      )}
    </div>
  );
}

/** Who holds the devices, and when they come free. */
export function Holders(props: { refusal: IRefusal }): React.ReactElement {
  const { holders, free_at } = props.refusal.details;
  return (
    <>
      {free_at && <p>Free at {formatClock(free_at)} at the latest.</p>}
      {holders && holders.length > 0 && (
        <ul className="elara-Holders" aria-label="Who holds the devices">
          {holders.slice(0, 4).map((holder, index) => (
            <li key={index}>{holderText(holder)}</li>
          ))}
          {holders.length > 4 && <li>and {holders.length - 4} more</li>}
        </ul>
      )}
    </>
  );
}

function holderText(holder: IHolder): string {
  const share =
    holder.share >= 1000
      ? holder.devices === 1
        ? '1 device'
        : `${holder.devices} devices`
      : `${formatShare(holder.share)} of ${holder.devices === 1 ? 'a device' : `${holder.devices} devices`}`;
  const until = holder.ends_at ? ` until ${formatClock(holder.ends_at)}` : '';
  return `${holder.user} (${holder.project}): ${share}${until}`;
}

/** The label of a device that computes on the node's CPU. */
export function EmulatedBadge(): React.ReactElement {
  return <span className="elara-Badge">{EMULATED}</span>;
}

/** A field with its label above it. */
export function Field(props: {
  label: string;
  children: React.ReactElement;
}): React.ReactElement {
  const id = React.useId();
  return (
    <div className="elara-Field">
      <label htmlFor={id}>{props.label}</label>
      {React.cloneElement(props.children, { id })}
    </div>
  );
}

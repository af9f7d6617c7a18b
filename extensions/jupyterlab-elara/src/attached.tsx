import * as React from 'react';

import { extensions } from './choices';
import {
  formatClock,
  formatDuration,
  formatShare,
  formatUsage,
  modelName
} from './format';
import { GpuModel } from './model';
import { EmulatedBadge, Field, Refusal, useAction } from './parts';
import { ILeaseDevice } from './types';

/** What the popover shows while devices are attached: each device, the time left, Extend and Detach. */
export function AttachedView(props: {
  model: GpuModel;
}): React.ReactElement | null {
  const { model } = props;
  const [wanted, setMinutes] = React.useState(30);
  const [confirming, setConfirming] = React.useState(false);
  const [told, setTold] = React.useState('');
  const offered = extensions(
    model.status?.limits.max_minutes ?? 480,
    model.secondsLeft
  );
  const minutes = offered.includes(wanted) ? wanted : (offered[0] ?? 0);
  const extend = useAction(async () => {
    await model.extend(minutes);
    setTold(`Extended by ${formatDuration(minutes * 60)}.`);
  });
  const detach = useAction(() => model.detach());
  const lease = model.lease;
  if (!lease) {
    return null;
  }
  const left = model.secondsLeft;
  const service = model.status?.service;
  return (
    <div className="elara-Body">
      {lease.devices.map(device => (
        <DeviceCard key={device.ordinal} device={device} />
      ))}
      <p className="elara-Time">
        {left === null || lease.ends_at === null ? (
          'Without an end'
        ) : (
          <>
            <strong>{formatDuration(left)} left</strong>, until{' '}
            {formatClock(lease.ends_at)}
          </>
        )}
        <span className="elara-Hint">
          {lease.busy ? ' · computing now' : ' · idle'}
        </span>
      </p>
      <p className="elara-Hint">
        In every notebook of this workspace it is there as{' '}
        <code>device=&quot;cuda&quot;</code>, with no kernel restart.
      </p>
      {service && !service.reachable && (
        <p className="elara-Notice" role="status">
          The service does not answer just now. Work on the GPU goes on; extend
          and detach when it is back.
        </p>
      )}
      {offered.length === 0 && (
        <p className="elara-Hint">
          It has the longest time that your project allows; extend it later.
        </p>
      )}
      <div className="elara-Extend" hidden={offered.length === 0}>
        <Field label="Extend by">
          <select
            value={minutes}
            onChange={event => setMinutes(Number(event.target.value))}
            data-autofocus
          >
            {offered.map(value => (
              <option key={value} value={value}>
                {formatDuration(value * 60)}
              </option>
            ))}
          </select>
        </Field>
        <button
          type="button"
          className="jp-mod-styled jp-mod-accept"
          disabled={extend.busy}
          onClick={extend.run}
        >
          Extend
        </button>
      </div>
      <p className="elara-Told" role="status" aria-live="polite">
        {told}
      </p>
      <Refusal refusal={extend.refusal ?? detach.refusal} />
      {confirming ? (
        <div
          className="elara-Notice elara-mod-refused"
          role="group"
          aria-label="Confirm detach"
        >
          <p role="alert">
            <strong>The device is computing.</strong> Detaching stops that work,
            and what is on the device is lost.
          </p>
          <footer className="elara-Footer">
            <button
              type="button"
              className="jp-mod-styled jp-mod-reject"
              onClick={() => setConfirming(false)}
              ref={focusOnce}
            >
              Keep it
            </button>
            <button
              type="button"
              className="jp-mod-styled jp-mod-warn"
              disabled={detach.busy}
              onClick={detach.run}
            >
              Detach anyway
            </button>
          </footer>
        </div>
      ) : (
        <footer className="elara-Footer">
          <button
            type="button"
            className="jp-mod-styled jp-mod-reject"
            disabled={detach.busy}
            onClick={() => (lease.busy ? setConfirming(true) : detach.run())}
          >
            {detach.busy ? 'Detaching' : 'Detach'}
          </button>
        </footer>
      )}
    </div>
  );
}

function DeviceCard(props: { device: ILeaseDevice }): React.ReactElement {
  const { device } = props;
  const usage = formatUsage(device.used_bytes, device.memory_bytes);
  const part = Math.min(
    1,
    device.used_bytes / Math.max(1, device.memory_bytes)
  );
  const share =
    device.share >= 1000
      ? 'whole device'
      : `${formatShare(device.share)} of the device`;
  return (
    <section className="elara-Device" aria-label={`cuda:${device.ordinal}`}>
      <div className="elara-Device-name">
        <code>cuda:{device.ordinal}</code> <strong>{modelName(device)}</strong>
        {device.emulated && <EmulatedBadge />}
      </div>
      <div className="elara-Device-facts">
        <span>
          {share}
          {device.node && ` on ${device.node}`}
        </span>
        <span>{usage}</span>
      </div>
      <div
        className="elara-Meter"
        role="meter"
        aria-label={`Memory of cuda:${device.ordinal}`}
        aria-valuemin={0}
        aria-valuemax={device.memory_bytes}
        aria-valuenow={device.used_bytes}
        aria-valuetext={`${usage} used`}
        data-full={part > 0.9}
      >
        <div style={{ width: `${part * 100}%` }} />
      </div>
    </section>
  );
}

function focusOnce(element: HTMLElement | null): void {
  element?.focus();
}

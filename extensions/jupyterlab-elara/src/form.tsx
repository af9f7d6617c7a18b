import * as React from 'react';

import {
  durations,
  formProblem,
  freeText,
  IForm,
  initialForm,
  mergeModels,
  ShareChoice,
  toRequest
} from './choices';
import { formatBytes, formatDuration, modelName, offerLabel } from './format';
import { GpuModel } from './model';
import {
  asRefusal,
  EmulatedBadge,
  Field,
  Holders,
  Refusal,
  useAction
} from './parts';
import { IOffer, IPoolModel, IPreview, IRefusal, IRequest } from './types';

const SHARES: [ShareChoice, string][] = [
  ['1000', 'Whole'],
  ['500', '1/2'],
  ['250', '1/4'],
  ['memory', 'By memory']
];

/** Milliseconds until a changed form is asked about, and between two looks at an unchanged one. */
const PREVIEW_DELAY = 250;
const PREVIEW_AGAIN = 5000;

/** The form of the popover: what is free, how many, which share, for how long, and what the service says to it. */
export function AttachForm(props: { model: GpuModel }): React.ReactElement {
  const { model } = props;
  const models = mergeModels(model.status?.pool?.models ?? []);
  const limit = model.status?.limits.max_minutes ?? 480;
  const [chosen, setChosen] = React.useState<IForm | null>(null);
  // Until the pool is known nothing is chosen; then the first proposal stands until the user changes it.
  const form = chosen ?? initialForm(models, limit, model.lastRequest);
  const ready = models.length > 0;
  React.useEffect(() => {
    if (ready && chosen === null) {
      setChosen(form);
    }
  }, [ready]);
  const problem = formProblem(form, models);
  const preview = usePreview(model, ready && !problem ? toRequest(form) : null);
  const [asked, setAsked] = React.useState<IRequest>(toRequest(form));
  const attach = useAction(() => model.attach(asked));
  const submit = (request: IRequest) => {
    setAsked(request);
    setSubmitted(count => count + 1);
  };
  const [submitted, setSubmitted] = React.useState(0);
  React.useEffect(() => {
    if (submitted > 0) {
      attach.run();
    }
  }, [submitted]);
  const change = (part: Partial<IForm>) => {
    attach.clear();
    setChosen({ ...form, ...part });
  };
  if (!ready) {
    return <NoPool model={model} />;
  }
  const refused = preview && !preview.ok ? preview : null;
  const refusal = attach.refusal ?? refused;
  return (
    <form
      className="elara-Body"
      noValidate
      onSubmit={event => {
        event.preventDefault();
        if (!problem && !refused && !attach.busy) {
          submit(toRequest(form));
        }
      }}
    >
      <LastEnd model={model} />
      <fieldset className="elara-Models">
        <legend>Device</legend>
        {models.map((entry, index) => (
          <ModelChoice
            key={entry.model}
            entry={entry}
            checked={entry.model === form.model}
            first={index === 0}
            onChoose={() => change({ model: entry.model })}
          />
        ))}
      </fieldset>
      <fieldset className="elara-Shares">
        <legend>Share of each device</legend>
        <div className="elara-Segments">
          {SHARES.map(([value, text]) => (
            <label key={value} data-checked={form.share === value}>
              <input
                type="radio"
                name="elara-share"
                value={value}
                checked={form.share === value}
                onChange={() => change({ share: value })}
              />
              {text}
            </label>
          ))}
        </div>
      </fieldset>
      <div className="elara-Row">
        {form.share === 'memory' && (
          <Field label="GiB of each">
            <input
              type="text"
              inputMode="decimal"
              value={form.gib}
              aria-invalid={!!problem}
              onChange={event => change({ gib: event.target.value })}
            />
          </Field>
        )}
        <Field label="How many">
          <input
            type="number"
            min={1}
            max={Math.max(1, ...models.map(entry => entry.healthy))}
            value={Number.isNaN(form.count) ? '' : form.count}
            onChange={event => change({ count: event.target.valueAsNumber })}
          />
        </Field>
        <Field label="For">
          <select
            value={form.minutes}
            onChange={event => change({ minutes: Number(event.target.value) })}
          >
            {durations(limit).map(minutes => (
              <option key={minutes} value={minutes}>
                {formatDuration(minutes * 60)}
              </option>
            ))}
          </select>
        </Field>
      </div>
      <div className="elara-Preview" aria-live="polite" aria-atomic="true">
        {problem ? (
          <p className="elara-Notice elara-mod-refused">{problem}</p>
        ) : attach.refusal ? null : refused ? (
          <RefusedPreview refusal={refused} />
        ) : (
          <p className="elara-Available" data-known={preview !== null}>
            {preview ? `Free now: ${amountText(form, models)}` : 'Checking'}
          </p>
        )}
      </div>
      <Refusal refusal={attach.refusal} />
      {refusal && (
        <Offers
          refusal={refusal}
          form={form}
          models={models}
          busy={attach.busy}
          onTake={submit}
        />
      )}
      <footer className="elara-Footer">
        <button
          type="submit"
          className="jp-mod-styled jp-mod-accept"
          disabled={!!problem || !!refused || attach.busy}
        >
          Attach
        </button>
      </footer>
    </form>
  );
}

function ModelChoice(props: {
  entry: IPoolModel;
  checked: boolean;
  first: boolean;
  onChoose: () => void;
}): React.ReactElement {
  const { entry, checked } = props;
  return (
    <label className="elara-Model" data-checked={checked}>
      <input
        type="radio"
        name="elara-model"
        value={entry.model}
        checked={checked}
        onChange={props.onChoose}
        data-autofocus={checked ? true : undefined}
      />
      <span className="elara-Model-name">
        {modelName(entry)}
        {entry.emulated && <EmulatedBadge />}
      </span>
      <span className="elara-Model-facts">
        {formatBytes(entry.memory_bytes)} · {freeText(entry)}
      </span>
    </label>
  );
}

/** Why the request cannot be met now, as the preview says it. */
function RefusedPreview(props: { refusal: IRefusal }): React.ReactElement {
  const { message, next_step } = props.refusal;
  return (
    <div className="elara-Notice elara-mod-refused">
      <p>
        <strong>{message}</strong> {next_step}
      </p>
      <Holders refusal={props.refusal} />
    </div>
  );
}

/** What a refused user can do at once: take the nearest, or wait for the turn. */
function Offers(props: {
  refusal: IRefusal;
  form: IForm;
  models: IPoolModel[];
  busy: boolean;
  onTake: (request: IRequest) => void;
}): React.ReactElement | null {
  const { nearest, holders, free_at } = props.refusal.details;
  const canWait = !!free_at || (holders?.length ?? 0) > 0;
  if (!nearest && !canWait) {
    return null;
  }
  return (
    <div className="elara-Offers">
      {nearest && (
        <button
          type="button"
          className="jp-mod-styled jp-mod-accept"
          data-testid="elara-nearest"
          disabled={props.busy}
          onClick={() => props.onTake(offerRequest(nearest, props.form))}
        >
          Take{' '}
          {offerLabel({
            ...nearest,
            emulated: props.models.some(
              entry => entry.model === nearest.model && entry.emulated
            )
          })}{' '}
          now
        </button>
      )}
      {canWait && (
        <button
          type="button"
          className="jp-mod-styled"
          disabled={props.busy}
          onClick={() => props.onTake({ ...toRequest(props.form), wait: true })}
        >
          Wait in the queue
        </button>
      )}
    </div>
  );
}

/** Why the last attachment ended, until the next one. */
function LastEnd(props: { model: GpuModel }): React.ReactElement | null {
  const end = props.model.status?.last_end;
  return end ? <p className="elara-Notice">{end.message}</p> : null;
}

function NoPool(props: { model: GpuModel }): React.ReactElement {
  const service = props.model.status?.service;
  const empty = props.model.status?.pool?.devices_total === 0;
  const text = empty
    ? 'There is no device in the pool at the moment. An administrator adds nodes on the pool page.'
    : service && !service.reachable
      ? (service.message ?? 'The service does not answer.')
      : 'Looking for free devices.';
  return (
    <div className="elara-Body">
      <p role="status" aria-live="polite">
        {text}
      </p>
    </div>
  );
}

/** What the service says to a request; null while it was not asked yet. */
function usePreview(
  model: GpuModel,
  request: IRequest | null
): IPreview | null {
  const [answer, setAnswer] = React.useState<IPreview | null>(null);
  const key = JSON.stringify(request);
  React.useEffect(() => {
    setAnswer(null);
    if (!request) {
      return;
    }
    let stopped = false;
    let timer = 0;
    const ask = () => {
      model
        .preview(request)
        .catch((error: unknown): IPreview => ({ ok: false, ...plain(error) }))
        .then(result => {
          if (!stopped) {
            setAnswer(result);
            timer = window.setTimeout(ask, PREVIEW_AGAIN);
          }
        });
    };
    timer = window.setTimeout(ask, PREVIEW_DELAY);
    return () => {
      stopped = true;
      window.clearTimeout(timer);
    };
  }, [key]);
  return answer;
}

function plain(error: unknown): IRefusal {
  const { reason, message, next_step, details } = asRefusal(error);
  return { reason, message, next_step, details };
}

function offerRequest(offer: IOffer, form: IForm): IRequest {
  return {
    count: offer.count,
    share: offer.share,
    ...(offer.model ? { model: offer.model } : {}),
    minutes: offer.minutes ?? form.minutes
  };
}

/** `2 × 1/4 H100, 20.0 GiB on each`. */
function amountText(form: IForm, models: IPoolModel[]): string {
  const request = toRequest(form);
  const entry = models.find(candidate => candidate.model === form.model);
  const label = offerLabel({ ...request, emulated: entry?.emulated });
  const each = form.count > 1 ? ' on each' : '';
  return entry && request.share !== undefined
    ? `${label}, ${formatBytes((entry.memory_bytes * request.share) / 1000)}${each}`
    : label;
}

/*
 * What the form offers and what it asks for. Pure, so that it is tested without a browser.
 */

interface IModelLike {
  model: string;
  emulated: boolean;
  healthy: number;
  free_whole: number;
  largest_free_share: number;
  memory_bytes: number;
}

interface IRequestLike {
  count: number;
  share?: number;
  memory_bytes?: number;
  model?: string;
  minutes: number;
}

export type ShareChoice = '1000' | '500' | '250' | 'memory';

/**
 * One entry for each name of a model: a request names a model, not how much memory it has. Of several sizes the smallest
 * counts.
 */
export function mergeModels<
  T extends IModelLike & { devices: number; free_share_total: number }
>(models: T[]): T[] {
  const merged = new Map<string, T>();
  for (const entry of models) {
    const other = merged.get(entry.model);
    merged.set(
      entry.model,
      other
        ? {
            ...other,
            devices: other.devices + entry.devices,
            healthy: other.healthy + entry.healthy,
            free_whole: other.free_whole + entry.free_whole,
            free_share_total: other.free_share_total + entry.free_share_total,
            largest_free_share: Math.max(
              other.largest_free_share,
              entry.largest_free_share
            ),
            memory_bytes: Math.min(other.memory_bytes, entry.memory_bytes)
          }
        : entry
    );
  }
  return [...merged.values()];
}

/** By how many minutes a lease can be extended when it may end `limit` minutes from now at most. */
export function extensions(
  limit: number,
  secondsLeft: number | null
): number[] {
  const most = Math.floor(limit - (secondsLeft ?? 0) / 60);
  const usual = [15, 30, 60, 120].filter(minutes => minutes <= most);
  return usual.length > 0 || most < 1 ? usual : [most];
}

/** The state of the form's fields. */
export interface IForm {
  model: string;
  count: number;
  share: ShareChoice;
  /** Text of the memory field, GiB. */
  gib: string;
  minutes: number;
}

const GIB = 2 ** 30;

/** The durations on offer, in minutes: 15 up to the project's limit, which is itself always one of them. */
export function durations(limit: number): number[] {
  const usual = [15, 30, 60, 120, 240, 480, 720, 1440].filter(m => m < limit);
  return [...usual, Math.max(1, limit)];
}

/** The form's first state: what was asked for last time, else the largest usual share that is free. */
export function initialForm(
  models: IModelLike[],
  limit: number,
  last: IRequestLike | null
): IForm {
  const minutes = closestDuration(last?.minutes ?? 60, limit);
  const known = models.find(entry => entry.model === last?.model);
  const best = known ?? bestModel(models);
  const shared = ['1000', '500', '250'].includes(String(last?.share));
  const gib = last?.memory_bytes
    ? String(+(last.memory_bytes / GIB).toFixed(2))
    : '1';
  return {
    model: best?.model ?? '',
    count: Math.max(1, last?.count ?? 1),
    share: last?.memory_bytes
      ? 'memory'
      : shared
        ? (String(last?.share) as ShareChoice)
        : freeShare(best),
    gib,
    minutes
  };
}

/** What is wrong with the form's fields, or null. */
export function formProblem(form: IForm, models: IModelLike[]): string | null {
  if (!Number.isInteger(form.count) || form.count < 1) {
    return 'Enter how many devices: 1 or more.';
  }
  if (form.share !== 'memory') {
    return null;
  }
  const gib = Number(form.gib.replace(',', '.'));
  if (!(gib > 0)) {
    return 'Enter the memory of each device in GiB, for example 2.';
  }
  const entry = models.find(candidate => candidate.model === form.model);
  if (entry && gib * GIB > entry.memory_bytes) {
    return `One such device has ${+(entry.memory_bytes / GIB).toFixed(1)} GiB. Enter less.`;
  }
  return null;
}

/** The request that the form stands for. */
export function toRequest(form: IForm): IRequestLike {
  const request: IRequestLike = { count: form.count, minutes: form.minutes };
  if (form.model) {
    request.model = form.model;
  }
  if (form.share === 'memory') {
    request.memory_bytes = Math.round(Number(form.gib.replace(',', '.')) * GIB);
  } else {
    request.share = Number(form.share);
  }
  return request;
}

/** How much of a model is free, in words. */
export function freeText(entry: {
  healthy: number;
  free_whole: number;
  largest_free_share: number;
}): string {
  if (entry.healthy === 0) {
    return 'out of order';
  }
  if (entry.free_whole > 0) {
    return `${entry.free_whole} of ${entry.healthy} free`;
  }
  if (entry.largest_free_share > 0) {
    return `up to ${Math.round(entry.largest_free_share / 10)} % of one free`;
  }
  return 'none free';
}

function bestModel<T extends IModelLike>(models: T[]): T | undefined {
  return [...models].sort(
    (a, b) =>
      Number(a.emulated) - Number(b.emulated) ||
      b.free_whole - a.free_whole ||
      b.largest_free_share - a.largest_free_share
  )[0];
}

function freeShare(entry: IModelLike | undefined): ShareChoice {
  const free = entry?.largest_free_share ?? 1000;
  return free >= 1000 || free < 250 ? '1000' : free >= 500 ? '500' : '250';
}

function closestDuration(minutes: number, limit: number): number {
  const offered = durations(limit);
  return offered.filter(m => m <= minutes).pop() ?? offered[0];
}

/*
 * Words and numbers as the page shows them. Pure, and without imports, so that they are tested without a browser.
 */

/** The label that every emulated device carries wherever it is shown. */
export const EMULATED = 'emulated (CPU)';

interface IDeviceLike {
  model: string;
  emulated: boolean;
}

interface IHeldDevice extends IDeviceLike {
  share: number;
  memory_bytes: number;
  used_bytes: number;
}

/** `2.0 GiB`, `512 MiB`, `0 B`. */
export function formatBytes(bytes: number): string {
  const units: [string, number, number][] = [
    ['TiB', 2 ** 40, 1],
    ['GiB', 2 ** 30, 1],
    ['MiB', 2 ** 20, 0],
    ['KiB', 2 ** 10, 0]
  ];
  for (const [unit, size, digits] of units) {
    if (bytes >= size) {
      return `${(bytes / size).toFixed(digits)} ${unit}`;
    }
  }
  return `${Math.max(0, Math.round(bytes))} B`;
}

/** `0.4 / 2.0 GiB`: both in the unit of the second. */
export function formatUsage(used: number, allowed: number): string {
  const whole = formatBytes(allowed);
  const unit = whole.split(' ')[1];
  const size: Record<string, [number, number]> = {
    TiB: [2 ** 40, 2],
    GiB: [2 ** 30, 1],
    MiB: [2 ** 20, 0]
  };
  if (!size[unit]) {
    return `${formatBytes(used)} / ${whole}`;
  }
  const [divisor, digits] = size[unit];
  return `${(used / divisor).toFixed(digits)} / ${whole}`;
}

/** Thousandths as people say them: `whole`, `1/2`, `1/4`, else `0.3`. */
export function formatShare(share: number): string {
  if (share >= 1000) {
    return 'whole';
  }
  for (let denominator = 2; denominator <= 8; denominator++) {
    const numerator = (share * denominator) / 1000;
    if (Number.isInteger(numerator) && numerator > 0) {
      return `${numerator}/${denominator}`;
    }
  }
  return String(share / 1000);
}

/** `1 h 5 min`, `42 min`, `under 1 min`. Seconds in. */
export function formatDuration(seconds: number): string {
  if (seconds < 60) {
    return seconds <= 0 ? '0 min' : 'under 1 min';
  }
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) {
    return `${minutes} min`;
  }
  const hours = Math.floor(minutes / 60);
  return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
}

/** A moment as the user's own clock shows it, with the day when it is not today. */
export function formatClock(time: string, now: Date = new Date()): string {
  const date = new Date(time);
  const clock = date.toLocaleTimeString([], {
    hour: '2-digit',
    minute: '2-digit'
  });
  if (date.toDateString() === now.toDateString()) {
    return clock;
  }
  return `${date.toLocaleDateString([], { weekday: 'short', day: 'numeric', month: 'short' })}, ${clock}`;
}

/** A device's name without maker and memory, for tight places: `H100`. */
export function shortModel(model: string): string {
  const short = model
    .replace(/\(.*\)/g, '')
    .replace(/^(NVIDIA|AMD|Intel)\s+/i, '')
    .replace(/[-\s]*\b\d+\s*(GB|GiB|MiB)\b.*$/i, '')
    .trim();
  return short || model;
}

/** A device's name; of an emulated one without the remark in parentheses, because the label stands beside it. */
export function modelName(device: IDeviceLike): string {
  const plain = device.model.replace(/\s*\([^)]*\)+\s*$/, '');
  return device.emulated && plain ? plain : device.model;
}

/** A device's name with the label of an emulated one. */
export function deviceName(device: IDeviceLike): string {
  return device.emulated
    ? `${modelName(device)}, ${EMULATED}`
    : modelName(device);
}

/** `1/4 H100`, `2 × H100`, `1/2 emulated (CPU)`. */
export function devicesLabel(
  devices: (IDeviceLike & { share: number })[]
): string {
  if (devices.length === 0) {
    return 'GPU';
  }
  const [first] = devices;
  const same = devices.every(
    d => d.model === first.model && d.emulated === first.emulated
  );
  const name = !same
    ? 'GPUs'
    : first.emulated
      ? EMULATED
      : shortModel(first.model);
  const shares = new Set(devices.map(device => device.share));
  const share =
    shares.size > 1 || first.share >= 1000 ? '' : formatShare(first.share);
  const count = devices.length > 1 ? `${devices.length} ×` : '';
  return [count, share, name].filter(Boolean).join(' ');
}

/** Memory used of allowed over all devices. */
export function memoryLabel(devices: IHeldDevice[]): string {
  const sum = (key: 'used_bytes' | 'memory_bytes') =>
    devices.reduce((total, device) => total + (device[key] || 0), 0);
  return formatUsage(sum('used_bytes'), sum('memory_bytes'));
}

/** Seconds until `ends_at` by the service's clock; null for a lease without an end. */
export function secondsLeft(endsAt: string | null, now: number): number | null {
  return endsAt === null
    ? null
    : Math.max(0, (Date.parse(endsAt) - now) / 1000);
}

/** What a request or an offer asks for: `1 × 1/4 H100`, `2 × whole device`. */
export function offerLabel(offer: {
  count: number;
  share?: number;
  memory_bytes?: number;
  model?: string | null;
  emulated?: boolean;
}): string {
  const amount =
    offer.memory_bytes !== undefined
      ? formatBytes(offer.memory_bytes)
      : formatShare(offer.share ?? 1000);
  const model = offer.emulated
    ? EMULATED
    : offer.model
      ? shortModel(offer.model)
      : 'device';
  return `${offer.count} × ${amount} ${model}`;
}

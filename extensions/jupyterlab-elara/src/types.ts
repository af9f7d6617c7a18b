/** One device of a lease, as the service reports it. Memory in bytes. */
export interface ILeaseDevice {
  ordinal: number;
  uuid: string;
  model: string;
  emulated: boolean;
  node: string;
  /** Thousandths of the device; 1000 is the whole one. */
  share: number;
  memory_bytes: number;
  used_bytes: number;
}

/** The broker's grant to this workspace. Times are RFC 3339. */
export interface ILease {
  id: string;
  state: 'queued' | 'starting' | 'active' | 'ending' | 'ended';
  project: string;
  team: string;
  count: number;
  share: number | null;
  memory_bytes: number | null;
  devices: ILeaseDevice[];
  active_at: string | null;
  ends_at: string | null;
  busy: boolean;
  queue_position: number | null;
}

/** The devices of one model in the pool. */
export interface IPoolModel {
  model: string;
  emulated: boolean;
  devices: number;
  healthy: number;
  free_whole: number;
  free_share_total: number;
  largest_free_share: number;
  memory_bytes: number;
}

export interface IPool {
  devices_total: number;
  models: IPoolModel[];
  queued: number;
}

/** What a user asks for: a share (thousandths) or an amount of memory (bytes) of each of `count` devices. */
export interface IRequest {
  count: number;
  share?: number;
  memory_bytes?: number;
  model?: string;
  minutes: number;
  wait?: boolean;
}

/** The nearest request that can be met now. */
export interface IOffer {
  count: number;
  share: number;
  model: string | null;
  minutes?: number;
}

export interface IHolder {
  user: string;
  project: string;
  devices: number;
  share: number;
  ends_at: string | null;
}

/** Why a request cannot be met, as the service says it. */
export interface IRefusal {
  reason: string;
  message: string;
  next_step: string;
  details: {
    limit?: string | null;
    holders?: IHolder[];
    free_at?: string | null;
    nearest?: IOffer | null;
  };
}

export type IPreview = { ok: true } | ({ ok: false } & IRefusal);

/** Something that happened to the attachment, told to the user once. */
export interface INotice {
  id: string;
  kind: 'ending' | 'ended' | 'lost';
  message: string;
  created_at: string;
  lease: string;
}

/** Answer of `GET elara/status`. */
export interface IStatus {
  available: boolean;
  why_not: string | null;
  project: string | null;
  role: string | null;
  attachment: ILease | null;
  pending: ILease | null;
  last_end: { reason: string; message: string } | null;
  last_request: IRequest | null;
  pool: IPool | null;
  limits: { max_minutes: number };
  service: { reachable: boolean; message: string | null };
  notifications: INotice[];
  /** The service's clock, so that a browser with a wrong clock shows the right time left. */
  now: string;
}

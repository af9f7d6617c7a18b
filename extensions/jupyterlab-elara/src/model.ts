import { ServerConnection } from '@jupyterlab/services';
import { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Api, RequestError } from './request';
import { ILease, INotice, IPreview, IRequest, IStatus } from './types';
import { secondsLeft } from './format';

/** What the user sees of the workspace's attachment. */
export type Phase =
  'loading' | 'unavailable' | 'detached' | 'pending' | 'attached';

const SEEN_KEY = 'jupyterlab-elara:last-notice';

/**
 * The attachment of this workspace: one model for all notebooks, the status bar and the Running panel.
 *
 * It asks the server extension every few seconds, faster while something is starting, and not at all while the page is
 * hidden.
 */
export class GpuModel implements IDisposable {
  constructor(settings: ServerConnection.ISettings) {
    this._api = new Api(settings);
    this._poll = new Poll({
      name: 'jupyterlab-elara:status',
      factory: () => this._read(),
      frequency: { interval: INTERVALS.loading, backoff: true, max: 30_000 },
      standby: 'when-hidden'
    });
  }

  /** Emitted when anything that is shown may have changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Emitted once for each notice that this page has not shown yet. */
  get noticed(): ISignal<this, INotice> {
    return this._noticed;
  }

  get status(): IStatus | null {
    return this._status;
  }

  get phase(): Phase {
    const status = this._status;
    if (status?.attachment) {
      return 'attached';
    }
    if (this._attaching || status?.pending) {
      return 'pending';
    }
    if (status === null) {
      return 'loading';
    }
    return status.available ? 'detached' : 'unavailable';
  }

  get lease(): ILease | null {
    return this._status?.attachment ?? null;
  }

  /** The workspace itself does not answer: what is shown may be out of date. */
  get problem(): RequestError | null {
    return this._problem;
  }

  /** Seconds until the attachment ends by the service's clock; null when it does not end by itself, or is none. */
  get secondsLeft(): number | null {
    return this.lease
      ? secondsLeft(this.lease.ends_at, Date.now() + this._clockOffset)
      : null;
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  dispose(): void {
    this._poll.dispose();
    Signal.clearData(this);
  }

  /** While a popover is open, the pool is read along, and more often. */
  set watchPool(value: boolean) {
    this._watchPool = value;
    this._setPace();
    void this.refresh();
  }

  refresh(): Promise<void> {
    return this._poll.refresh().then(() => this._poll.tick.then(() => {}));
  }

  preview(request: IRequest): Promise<IPreview> {
    return this._api.preview(request);
  }

  /** Ask for devices. Rejects with a RequestError when refused. */
  async attach(request: IRequest): Promise<void> {
    this._attaching = true;
    this._lastRequest = request;
    this._changed.emit();
    this._setPace();
    try {
      const lease = await this._api.attach(request);
      if (this._status) {
        const active = lease.state === 'active';
        this._status = {
          ...this._status,
          attachment: active ? lease : null,
          pending: active ? null : lease,
          last_end: null
        };
      }
    } finally {
      this._attaching = false;
      this._changed.emit();
      void this.refresh();
    }
  }

  async extend(minutes: number): Promise<void> {
    const lease = await this._api.extend(minutes);
    if (this._status) {
      this._status = { ...this._status, attachment: lease };
    }
    this._changed.emit();
    void this.refresh();
  }

  /** Detach, or cancel what is starting. */
  async detach(): Promise<void> {
    await this._api.detach();
    if (this._status) {
      this._status = { ...this._status, attachment: null, pending: null };
    }
    this._changed.emit();
    void this.refresh();
  }

  /** Whether devices of this name compute on a CPU, as far as the pool was read. */
  isEmulated(model: string | null | undefined): boolean {
    const models = this._status?.pool?.models ?? [];
    return models.some(entry => entry.model === model && entry.emulated);
  }

  /** The request to repeat for "Attach again". */
  get lastRequest(): IRequest | null {
    return this._lastRequest ?? this._status?.last_request ?? null;
  }

  private async _read(): Promise<void> {
    try {
      const status = await this._api.status({ pool: this._watchPool });
      if (!this._watchPool) {
        status.pool = this._status?.pool ?? null;
      }
      this._status = status;
      this._problem = null;
      this._clockOffset = Date.parse(status.now) - Date.now();
      this._tellNotices(status.notifications);
    } catch (error) {
      this._problem = error as RequestError;
      throw error;
    } finally {
      this._setPace();
      this._changed.emit();
    }
  }

  private _setPace(): void {
    const interval =
      this._watchPool && this.phase !== 'pending'
        ? INTERVALS.watched
        : INTERVALS[this.phase];
    if (this._poll.frequency.interval !== interval) {
      this._poll.frequency = { interval, backoff: true, max: 30_000 };
    }
  }

  private _tellNotices(notices: INotice[]): void {
    const seen = window.sessionStorage.getItem(SEEN_KEY);
    const index = notices.findIndex(notice => notice.id === seen);
    // A page that knows none of them (new, or the server restarted) tells what is recent, not the whole past.
    const recent = Date.now() + this._clockOffset - 120_000;
    const fresh = notices
      .slice(index + 1)
      .filter(notice => index >= 0 || Date.parse(notice.created_at) > recent);
    const last = notices[notices.length - 1];
    if (last) {
      window.sessionStorage.setItem(SEEN_KEY, last.id);
    }
    fresh.forEach(notice => this._noticed.emit(notice));
  }

  private readonly _api: Api;
  private readonly _poll: Poll;
  private readonly _changed = new Signal<this, void>(this);
  private readonly _noticed = new Signal<this, INotice>(this);
  private _status: IStatus | null = null;
  private _problem: RequestError | null = null;
  private _attaching = false;
  private _watchPool = false;
  private _clockOffset = 0;
  private _lastRequest: IRequest | null = null;
}

/** Milliseconds between two looks. */
const INTERVALS: Record<Phase | 'watched', number> = {
  loading: 2000,
  unavailable: 30_000,
  detached: 10_000,
  pending: 1000,
  attached: 3000,
  watched: 2000
};

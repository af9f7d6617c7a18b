import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import { IPreview, IRefusal, IRequest, IStatus, ILease } from './types';

/** A refusal of the server extension or the service: what is wrong, and the next step. */
export class RequestError extends Error implements IRefusal {
  constructor(refusal: IRefusal) {
    super(refusal.message);
    this.reason = refusal.reason;
    this.next_step = refusal.next_step;
    this.details = refusal.details ?? {};
  }

  readonly reason: string;
  readonly next_step: string;
  readonly details: IRefusal['details'];
}

/** The server extension's routes, `{base_url}elara/...`. Every method rejects with a RequestError. */
export class Api {
  constructor(private readonly _settings: ServerConnection.ISettings) {}

  /** The state of this workspace; with `pool`, also what is free. Never counts as activity. */
  status(options: { pool: boolean }): Promise<IStatus> {
    const query = options.pool
      ? '?no_track_activity=1&pool=1'
      : '?no_track_activity=1';
    return this._call<IStatus>(`status${query}`);
  }

  preview(request: IRequest): Promise<IPreview> {
    // The open popover asks again every few seconds, so this is no sign of life either.
    return this._call<IPreview>('preview?no_track_activity=1', request);
  }

  async attach(request: IRequest): Promise<ILease> {
    return (await this._call<{ lease: ILease }>('attach', request)).lease;
  }

  async extend(minutes: number): Promise<ILease> {
    return (await this._call<{ lease: ILease }>('extend', { minutes })).lease;
  }

  async detach(): Promise<void> {
    await this._call('detach', {});
  }

  private async _call<T>(path: string, body?: unknown): Promise<T> {
    const url = URLExt.join(this._settings.baseUrl, 'elara', path);
    const init: RequestInit =
      body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this._settings);
    } catch {
      throw new RequestError({
        reason: 'workspace_unreachable',
        message: 'The workspace does not answer.',
        next_step:
          'Check your connection; the page tries again by itself. A running attachment is not affected.',
        details: {}
      });
    }
    const data = await response.json().catch(() => null);
    if (!response.ok) {
      throw new RequestError(readRefusal(response, data));
    }
    return data as T;
  }
}

function readRefusal(response: Response, data: unknown): IRefusal {
  const refusal = data as Partial<IRefusal> | null;
  if (refusal?.reason && refusal.message) {
    return {
      reason: refusal.reason,
      message: refusal.message,
      next_step: refusal.next_step ?? '',
      details: refusal.details ?? {}
    };
  }
  if (response.status === 403 || response.status === 401) {
    return {
      reason: 'signed_out',
      message: 'You are no longer signed in to this workspace.',
      next_step: 'Reload the page and sign in again.',
      details: {}
    };
  }
  return {
    reason: 'workspace_error',
    message:
      refusal?.message || `The workspace answered ${response.status} instead.`,
    next_step: 'Reload the page; if it stays, restart the workspace.',
    details: {}
  };
}

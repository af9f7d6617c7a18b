import { ReactWidget } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import * as React from 'react';

import { AttachedView } from './attached';
import { AttachForm } from './form';
import { GpuModel } from './model';
import { PendingView, UnavailableView } from './waiting';

const FOCUSABLE =
  'button:not([disabled]), input:not([disabled]), select:not([disabled]), a[href], [tabindex="0"]';
const MARGIN = 8;

/**
 * The popover of the button: a dialog beside its anchor.
 *
 * It keeps the focus inside, closes by Escape or a click elsewhere, and gives the focus back to what opened it.
 */
export class GpuPopover extends ReactWidget {
  constructor(
    private readonly _model: GpuModel,
    private readonly _anchor: HTMLElement | null
  ) {
    super();
    this._returnTo = _anchor ?? (document.activeElement as HTMLElement | null);
    this.addClass('elara-Popover');
    this.addClass('jp-ThemedContainer');
    this.node.setAttribute('role', 'dialog');
    this.node.setAttribute('aria-label', 'Attach GPU');
    this.node.setAttribute('aria-modal', 'true');
    this.node.tabIndex = -1;
    _model.changed.connect(this._onChanged, this);
    this._sizes = new ResizeObserver(() => this._place());
  }

  /** Show the popover. */
  show(): void {
    Widget.attach(this, document.body);
    this._model.watchPool = true;
  }

  close(): void {
    this.dispose();
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    const hadFocus =
      this.node.contains(document.activeElement) ||
      document.activeElement === document.body;
    this._model.changed.disconnect(this._onChanged, this);
    this._model.watchPool = false;
    super.dispose();
    if (hadFocus && this._returnTo?.isConnected) {
      this._returnTo.focus();
    }
  }

  handleEvent(event: Event): void {
    switch (event.type) {
      case 'keydown':
        this._onKey(event as KeyboardEvent);
        break;
      case 'pointerdown':
        this._onPointer(event as PointerEvent);
        break;
      case 'resize':
        this._place();
        break;
    }
  }

  render(): React.ReactElement {
    const phase = this._model.phase;
    return (
      <div className="elara-Popover-content">
        <header className="elara-Popover-header">
          <div>
            <h2>{TITLES[phase]}</h2>
            {this._model.status?.project && (
              <p className="elara-Popover-project">
                Project {this._model.status.project}
              </p>
            )}
          </div>
          <button
            type="button"
            className="elara-Popover-close"
            aria-label="Close"
            title="Close (Escape)"
            onClick={() => this.close()}
          >
            ×
          </button>
        </header>
        {this._body()}
      </div>
    );
  }

  protected onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    // In the capture phase: the application listens for shortcuts on the document.
    document.addEventListener('keydown', this, true);
    document.addEventListener('pointerdown', this, true);
    window.addEventListener('resize', this);
    this._sizes.observe(this.node);
    void this.renderPromise?.then(() => {
      this._place();
      this._focusInside();
    });
  }

  protected onBeforeDetach(message: Message): void {
    document.removeEventListener('keydown', this, true);
    document.removeEventListener('pointerdown', this, true);
    window.removeEventListener('resize', this);
    this._sizes.disconnect();
    super.onBeforeDetach(message);
  }

  private _body(): React.ReactElement {
    const model = this._model;
    switch (model.phase) {
      case 'attached':
        return <AttachedView model={model} />;
      case 'pending':
        return <PendingView model={model} />;
      case 'detached':
        return <AttachForm model={model} />;
      default:
        return <UnavailableView model={model} />;
    }
  }

  private _onChanged(): void {
    this.update();
    void this.renderPromise?.then(() => this._focusInside());
  }

  /**
   * Focus the first field once it is there (the pool may come a moment later); after that, only bring a focus back that
   * a new view has dropped.
   */
  private _focusInside(): void {
    if (this.isDisposed) {
      return;
    }
    const active = document.activeElement;
    const first = this.node.querySelector<HTMLElement>('[data-autofocus]');
    if (this._opening && first) {
      this._opening = false;
      first.focus();
    } else if (this._opening || active === document.body || active === null) {
      this.node.focus();
    }
  }

  private _onKey(event: KeyboardEvent): void {
    if (event.key === 'Escape') {
      event.preventDefault();
      event.stopPropagation();
      this.close();
    } else if (event.key === 'Tab') {
      this._opening = false;
      this._onTab(event);
    }
  }

  private _onTab(event: KeyboardEvent): void {
    const stops = tabStops(this.node);
    const active = document.activeElement;
    const first = stops[0];
    const last = stops[stops.length - 1];
    const outside = !this.node.contains(active) || active === this.node;
    if (!first) {
      event.preventDefault();
    } else if (event.shiftKey && (outside || active === first)) {
      event.preventDefault();
      last.focus();
    } else if (!event.shiftKey && (outside || active === last)) {
      event.preventDefault();
      first.focus();
    }
  }

  private _onPointer(event: PointerEvent): void {
    const target = event.target as Node;
    if (this.node.contains(target)) {
      return;
    }
    if (this._anchor?.contains(target)) {
      // The anchor's own click would open it again.
      this._anchor.addEventListener('click', swallow, {
        capture: true,
        once: true
      });
    }
    this.close();
  }

  /** Below the anchor, above it where there is no room below, in the middle without one. */
  private _place(): void {
    const { width, height } = this.node.getBoundingClientRect();
    const anchor = this._anchor?.isConnected
      ? this._anchor.getBoundingClientRect()
      : null;
    let left = (window.innerWidth - width) / 2;
    let top = window.innerHeight / 5;
    if (anchor && anchor.width > 0) {
      left = anchor.left;
      const below = anchor.bottom + MARGIN / 2;
      const fits = below + height + MARGIN <= window.innerHeight;
      top = fits ? below : anchor.top - height - MARGIN / 2;
    }
    const clamp = (value: number, size: number, room: number) =>
      Math.max(MARGIN, Math.min(value, room - size - MARGIN));
    this.node.style.left = `${clamp(left, width, window.innerWidth)}px`;
    this.node.style.top = `${clamp(top, height, window.innerHeight)}px`;
  }

  private _opening = true;
  private readonly _returnTo: HTMLElement | null;
  private readonly _sizes: ResizeObserver;
}

const TITLES = {
  loading: 'GPU',
  unavailable: 'No GPU here',
  detached: 'Attach a GPU',
  pending: 'Attaching a GPU',
  attached: 'GPU attached'
};

function swallow(event: Event): void {
  event.stopPropagation();
  event.preventDefault();
}

/** The elements that Tab visits, in order: of a group of radio buttons only the chosen one. */
function tabStops(node: HTMLElement): HTMLElement[] {
  return Array.from(node.querySelectorAll<HTMLElement>(FOCUSABLE)).filter(
    element =>
      element.getClientRects().length > 0 &&
      !(
        element instanceof HTMLInputElement &&
        element.type === 'radio' &&
        !element.checked
      )
  );
}

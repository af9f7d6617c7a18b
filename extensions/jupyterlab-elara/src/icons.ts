import { LabIcon } from '@jupyterlab/ui-components';

// A card with its chip and a moon in orbit. `jp-icon3` lets the theme colour it.
const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 16 16">
  <g class="jp-icon3" fill="#616161">
    <path d="M2.5 3h9.2a.8.8 0 0 1 0 1.5H3v7h10V8.3a.75.75 0 0 1 1.5 0v3.9c0 .4-.4.8-.8.8H2.3a.8.8 0 0 1-.8-.8V3.8c0-.4.4-.8 1-.8z"/>
    <path fill-rule="evenodd" d="M7.4 5.6a2.4 2.4 0 1 1 0 4.8 2.4 2.4 0 0 1 0-4.8zm0 1.4a1 1 0 1 0 0 2 1 1 0 0 0 0-2z"/>
    <circle cx="13.7" cy="4.6" r="1.5"/>
    <path d="M4 13.2h1.6v1.3H4zM7.2 13.2h1.6v1.3H7.2zM10.4 13.2H12v1.3h-1.6z"/>
  </g>
</svg>`;

export const gpuIcon = new LabIcon({ name: 'elara:gpu', svgstr: svg });

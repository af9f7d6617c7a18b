// The words and numbers of the page. Run by test_frontend.py with node's own test runner, on the compiled modules.

import assert from 'node:assert/strict';
import test from 'node:test';

const lib = process.env.ELARA_LIB;
const format = await import(`${lib}/format.js`);
const choices = await import(`${lib}/choices.js`);

const GIB = 2 ** 30;
const h100 = { model: 'NVIDIA H100 80GB HBM3', emulated: false };
const emulated = { model: 'Elara emulated device (CPU)', emulated: true };
const entry = (over = {}) => ({
  ...h100,
  devices: 4,
  healthy: 4,
  free_whole: 2,
  free_share_total: 2500,
  largest_free_share: 1000,
  memory_bytes: 80 * GIB,
  ...over
});

test('shares, memory and time are said as people say them', () => {
  assert.equal(format.formatShare(1000), 'whole');
  assert.equal(format.formatShare(250), '1/4');
  assert.equal(format.formatShare(300), '0.3');
  assert.equal(format.formatShare(125), '1/8');
  assert.equal(format.formatUsage(0.4 * GIB, 2 * GIB), '0.4 / 2.0 GiB');
  assert.equal(format.formatUsage(0, 512 * 2 ** 20), '0 / 512 MiB');
  assert.equal(format.formatDuration(59), 'under 1 min');
  assert.equal(format.formatDuration(42 * 60 + 59), '42 min');
  assert.equal(format.formatDuration(7200), '2 h');
  assert.equal(format.formatDuration(7500), '2 h 5 min');
});

test('an emulated device is labelled wherever it is named', () => {
  assert.equal(format.devicesLabel([{ ...emulated, share: 500 }]), '1/2 emulated (CPU)');
  assert.equal(format.deviceName(emulated), 'Elara emulated device, emulated (CPU)');
  assert.equal(format.offerLabel({ count: 1, share: 250, ...emulated }), '1 × 1/4 emulated (CPU)');
});

test('real devices are named in short', () => {
  assert.equal(format.devicesLabel([{ ...h100, share: 250 }]), '1/4 H100');
  assert.equal(format.devicesLabel([{ ...h100, share: 1000 }, { ...h100, share: 1000 }]), '2 × H100');
  assert.equal(format.shortModel('Tesla V100-SXM2-16GB'), 'Tesla V100-SXM2');
});

test('a lease without an end has no time left to tell', () => {
  assert.equal(format.secondsLeft(null, Date.now()), null);
  assert.equal(format.secondsLeft('2026-01-01T00:00:10Z', Date.parse('2026-01-01T00:00:00Z')), 10);
  assert.equal(format.secondsLeft('2026-01-01T00:00:00Z', Date.parse('2026-01-01T00:01:00Z')), 0);
});

test('durations end with the limit of the project', () => {
  assert.deepEqual(choices.durations(60), [15, 30, 60]);
  assert.deepEqual(choices.durations(45), [15, 30, 45]);
  assert.deepEqual(choices.durations(10), [10]);
});

test('extensions stay within the longest lease', () => {
  assert.deepEqual(choices.extensions(240, 60 * 60), [15, 30, 60, 120]);
  assert.deepEqual(choices.extensions(60, 40 * 60), [15]);
  assert.deepEqual(choices.extensions(60, 55 * 60), [5]);
  assert.deepEqual(choices.extensions(60, 60 * 60), []);
});

test('the form proposes what is free, real devices first', () => {
  const form = choices.initialForm([entry(emulated), entry({ free_whole: 0, largest_free_share: 300 })], 240, null);
  assert.equal(form.model, h100.model);
  assert.equal(form.share, '250');
  assert.equal(form.minutes, 60);
});

test('the form proposes what was asked for last', () => {
  const last = { count: 2, memory_bytes: 3 * GIB, model: emulated.model, minutes: 500 };
  const form = choices.initialForm([entry(), entry(emulated)], 240, last);
  assert.deepEqual(form, { model: emulated.model, count: 2, share: 'memory', gib: '3', minutes: 240 });
  assert.deepEqual(choices.toRequest(form), { count: 2, minutes: 240, model: emulated.model, memory_bytes: 3 * GIB });
});

test('bad fields are said before anybody is asked', () => {
  const form = { model: h100.model, count: 1, share: 'memory', gib: '0,5', minutes: 60 };
  assert.equal(choices.formProblem(form, [entry()]), null);
  assert.equal(choices.toRequest(form).memory_bytes, GIB / 2);
  assert.match(choices.formProblem({ ...form, gib: '81' }, [entry()]), /80 GiB/);
  assert.match(choices.formProblem({ ...form, gib: 'x' }, [entry()]), /GiB/);
  assert.match(choices.formProblem({ ...form, count: NaN }, [entry()]), /1 or more/);
});

test('devices of one name are one choice', () => {
  const merged = choices.mergeModels([entry(), entry({ memory_bytes: 40 * GIB }), entry(emulated)]);
  assert.deepEqual(
    merged.map(each => [each.model, each.devices, each.memory_bytes / GIB]),
    [
      [h100.model, 8, 40],
      [emulated.model, 4, 80]
    ]
  );
});

import { expect, test } from "vitest";
import { ago } from "./time";

const now = new Date("2026-11-21T12:00:00Z");

test.each([
  ["2026-11-21T11:59:58.400Z", "2 s ago"],
  // The clock of the server may be ahead of ours.
  ["2026-11-21T12:00:03Z", "0 s ago"],
  ["2026-11-21T11:58:59Z", "1 min ago"],
  ["2026-11-21T09:00:00Z", "3 h ago"],
  ["2026-11-19T09:30:00Z", "2026-11-19 09:30"],
])("%s was %s", (time, expected) => {
  expect(ago(time, now)).toBe(expected);
});

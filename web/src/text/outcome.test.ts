import { expect, test } from "vitest";
import type { Finding, Status } from "../api/client";
import { isSettled, outcomeOf } from "./outcome";

const finding = (code: Finding["code"]): Finding => ({ code, message: "", resource: "", severity: "Warning" });

test.each<[Status["outcome"], Finding["code"][], string, boolean]>([
  ["running", [], "live", true],
  ["accepted", [], "accepted", true],
  ["accepted", ["NotEnforced"], "accepted, not enforced", true],
  ["accepted", ["ServiceNotFound"], "accepted", true],
  ["pending", [], "rolling out", false],
  ["rejected", ["NotEnforced"], "rejected", true],
  ["unknown", [], "unknown", false],
])("%s with %j is %s", (outcome, codes, word, settled) => {
  expect(outcomeOf({ outcome, clusters: {}, findings: codes.map(finding) }).word).toBe(word);
  expect(isSettled(outcome)).toBe(settled);
});

import { expect, test } from "vitest";
import { diff, inContext, type Line } from "./diff";

const SIGNS = { same: " ", out: "-", in: "+" };
const shown = (lines: (Line | null)[]) => lines.map((line) => (line ? SIGNS[line.how] + line.text : "…"));

test.each([
  { before: "", after: "", expected: [] },
  { before: "", after: "a\nb\n", expected: ["+a", "+b"] },
  { before: "a\nb\n", after: "", expected: ["-a", "-b"] },
  { before: "a\nb\nc\n", after: "a\nx\nc\n", expected: [" a", "-b", "+x", " c"] },
  { before: "a\nb\nc\nd", after: "b\nc\ne\nd", expected: ["-a", " b", " c", "+e", " d"] },
  { before: "a\na\n", after: "a\na\na\n", expected: [" a", " a", "+a"] },
])("$before → $after", ({ before, after, expected }) => {
  expect(shown(diff(before, after))).toEqual(expected);
});

test("what is far from every difference is one gap", () => {
  const before = ["1", "2", "3", "4", "5", "6", "7", "8", "9"].join("\n");
  expect(shown(inContext(diff(before, before.replace("5", "five")), 1))).toEqual(["…", " 4", "-5", "+five", " 6", "…"]);
  expect(shown(inContext(diff(before, before)))).toEqual(["…"]);
});

import { expect, test } from "vitest";
import { queryText } from "./client";
import { EventParser } from "./events";

test("events are the same however they are cut", () => {
  const text = 'id: writes.1\n\n: nothing new\n\nevent: record\nid: writes.2\ndata: {"a":\ndata: 1}\n\ndata: é\r\n\r\n';
  const expected = [
    { id: "writes.1", event: "message", data: "" },
    { id: "writes.2", event: "record", data: '{"a":\n1}' },
    { id: "", event: "message", data: "é" },
  ];
  expect(new EventParser().push(text)).toEqual(expected);
  const parser = new EventParser();
  expect([...text].flatMap((piece) => parser.push(piece))).toEqual(expected);
});

test("a query has what is given only", () => {
  expect(queryText({ a: "x y", b: "", c: undefined, d: 0, e: false })).toBe("?a=x+y&d=0&e=false");
  expect(queryText()).toBe("");
});

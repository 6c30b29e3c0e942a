import { expect, test } from "vitest";
import { questionOf } from "./question";
import { soughtIn } from "./sought";

const form = { from: " us-east/shop/web ", method: "GET", url: "http://a/ ", headers: "" };

test("headers are lines, and one that stands twice is one value", () => {
  const headers = "X-Variant: two\n\n  accept: a \nAccept:b:c";
  expect(questionOf({ ...form, headers })).toEqual({
    from: "us-east/shop/web",
    request: { method: "GET", url: "http://a/", headers: { "x-variant": "two", accept: "a, b:c" } },
  });
  expect(() => questionOf({ ...form, headers: "no header" })).toThrow("write NAME: VALUE");
});

test.each([
  ["shop.example.com", [{ host: "shop.example.com" }]],
  ["https://Shop.Example.com:8443/cart", [{ host: "shop.example.com" }]],
  ["shop/web", [{ service: "shop/web" }]],
  ["shop", [{ namespace: "shop" }, { host: "shop" }]],
  [" ", []],
])("%j may mean %j", (text, expected) => {
  expect(soughtIn(text)).toEqual(expected);
});

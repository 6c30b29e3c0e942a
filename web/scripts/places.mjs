// Which kind may stand below which, read from the paths of docs/openapi.json: the types that openapi-typescript makes are
// gone when the admin runs, and this is asked then.
import { readFileSync, writeFileSync } from "node:fs";

const at = (path) => new URL(path, import.meta.url);
const { paths } = JSON.parse(readFileSync(at("../../docs/openapi.json"), "utf8"));

/** By kind, the collections below it; `""` is the top. */
const places = {};
for (const [path, operations] of Object.entries(paths)) {
  const kind = operations.put && operations.put.tags[0];
  if (!kind) continue;
  const collections = path.split("/").filter((part) => part !== "v1" && part !== "" && !part.startsWith("{"));
  const above = path.slice(0, path.lastIndexOf(`/${collections.at(-1)}/`));
  const parent = paths[above]?.put?.tags[0] ?? "";
  (places[parent] ??= {})[collections.at(-1)] = kind;
}
writeFileSync(at("../src/api/places.json"), `${JSON.stringify(places, null, 2)}\n`);

/** What a text in the search box may mean, the likeliest first. */
export type Sought = { host: string } | { service: string } | { namespace: string };

export function soughtIn(text: string): Sought[] {
  const wanted = text.trim().toLowerCase();
  if (wanted === "") return [];
  const url = /^https?:\/\/([^/:]+)/.exec(wanted);
  if (url?.[1]) return [{ host: url[1] }];
  if (wanted.split("/").length === 2) return [{ service: wanted }];
  return wanted.includes(".") ? [{ host: wanted }] : [{ namespace: wanted }, { host: wanted }];
}

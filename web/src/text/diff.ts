/** The difference of two texts, line by line. */
export interface Line {
  how: "same" | "out" | "in";
  text: string;
}

/** Beyond this many pairs of lines the difference is told as everything out, everything in: nobody would wait for better. */
const PAIRS_MAX = 4_000_000;

export function diff(before: string, after: string): Line[] {
  const [a, b] = [linesOf(before), linesOf(after)];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  return [
    ...told("same", a.slice(0, start)),
    ...middle(a.slice(start, a.length - end), b.slice(start, b.length - end)),
    ...told("same", a.slice(a.length - end)),
  ];
}

/** Lines that are the same and further than `context` from any that is not are left out; `null` stands for each gap. */
export function inContext(lines: Line[], context = 3): (Line | null)[] {
  const near = lines.map((_, at) =>
    lines.slice(Math.max(0, at - context), at + context + 1).some((line) => line.how !== "same"),
  );
  return lines.flatMap((line, at): (Line | null)[] => {
    if (near[at]) return [line];
    return at === 0 || near[at - 1] ? [null] : [];
  });
}

function linesOf(text: string): string[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

function told(how: Line["how"], texts: string[]): Line[] {
  return texts.map((text) => ({ how, text }));
}

/** By their longest common subsequence. */
function middle(a: string[], b: string[]): Line[] {
  if (a.length * b.length > PAIRS_MAX) return [...told("out", a), ...told("in", b)];
  const width = b.length + 1;
  // Of a[i..] and b[j..], how many lines they have in common.
  const common = new Uint32Array((a.length + 1) * width);
  const at = (i: number, j: number) => common[i * width + j] ?? 0;
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      common[i * width + j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const lines: Line[] = [];
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      lines.push({ how: "same", text: a[i] ?? "" });
      [i, j] = [i + 1, j + 1];
    } else if (at(i + 1, j) >= at(i, j + 1)) {
      lines.push({ how: "out", text: a[i++] ?? "" });
    } else {
      lines.push({ how: "in", text: b[j++] ?? "" });
    }
  }
  return [...lines, ...told("out", a.slice(i)), ...told("in", b.slice(j))];
}

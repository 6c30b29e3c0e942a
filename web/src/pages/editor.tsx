/** The text of a resource, with what is wrong with it beside the line, and the way to its plan. */
import { useCallback, useEffect, useRef, useState } from "react";
import type { Problem } from "../api/problem";
import { Proposal } from "../parts/proposal";
import { guardLeaving } from "../router";
import { mistakesIn, read, type Mistake } from "../text/document";

interface Props {
  start: string;
  /** Of the state that was opened; none for what is new. */
  etag?: string | undefined;
  onCancel: () => void;
  onDone: (name: string) => void;
}

export function Editor({ start, etag, onCancel, onDone }: Props) {
  const [text, setText] = useState(start);
  const [mistakes, setMistakes] = useState<Mistake[]>([]);
  const [wish, setWish] = useState<object | null>(null);
  const field = useRef<HTMLTextAreaElement>(null);

  const changed = text !== start;
  useEffect(() => {
    if (!changed) return;
    const ask = () => confirm("Leave, and lose what you have written?");
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    guardLeaving(ask);
    addEventListener("beforeunload", warn);
    return () => {
      guardLeaving(null);
      removeEventListener("beforeunload", warn);
    };
  }, [changed]);

  const plan = () => {
    const got = read(text);
    setMistakes("mistakes" in got ? got.mistakes : []);
    setWish("mistakes" in got ? null : { ...got.fields, ...(etag && { etag }) });
  };
  const name = String((wish as { name?: string } | null)?.name ?? "");
  const refused = useCallback(
    (problem: Problem | null) => setMistakes(mistakesIn(text, name, problem?.details.errors ?? [])),
    [text, name],
  );
  const show = (line: number) => {
    const before = text.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    field.current?.focus();
    field.current?.setSelectionRange(before, before + (text.split("\n")[line - 1]?.length ?? 0));
  };
  return (
    <>
      <div className="editor">
        <pre className="gutter" aria-hidden="true">
          {text.split("\n").map((_, at) => (
            <span key={at} className={mistakes.some((mistake) => mistake.line === at + 1) ? "wrong" : ""}>
              {`${at + 1}\n`}
            </span>
          ))}
        </pre>
        <textarea
          ref={field}
          aria-label="Document, as YAML"
          aria-invalid={mistakes.length > 0}
          aria-describedby="mistakes"
          value={text}
          rows={text.split("\n").length + 1}
          spellCheck={false}
          wrap="off"
          autoFocus
          onChange={(event) => {
            setText(event.target.value);
            setWish(null);
          }}
        />
      </div>
      <ul id="mistakes" className="mistakes" aria-live="polite">
        {mistakes.map((mistake, at) => (
          <li key={at}>
            {mistake.line > 0 && (
              <button type="button" className="quiet" onClick={() => show(mistake.line)}>
                line {mistake.line}
              </button>
            )}{" "}
            {mistake.detail}
          </li>
        ))}
      </ul>
      {wish ? (
        <Proposal
          wish={wish}
          onRefused={refused}
          onCancel={() => setWish(null)}
          onDone={() => {
            guardLeaving(null);
            onDone(name);
          }}
        />
      ) : (
        <p className="buttons">
          <button type="button" className="primary" onClick={plan} disabled={etag !== undefined && !changed}>
            Plan
          </button>
          <button type="button" className="quiet" onClick={onCancel}>
            Cancel
          </button>
        </p>
      )}
    </>
  );
}

/** Shows the answer of a query, and until then that it is asked, or why there is none. */
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { Refusal } from "./refusal";

export function Asked<T>({ query, children }: { query: UseQueryResult<T>; children: (answer: T) => ReactNode }) {
  if (query.data !== undefined) return <>{children(query.data)}</>;
  if (query.error) {
    return (
      <Refusal error={query.error}>
        <button type="button" onClick={() => void query.refetch()}>
          Try again
        </button>
      </Refusal>
    );
  }
  return (
    <p className="loading" aria-busy="true">
      {query.failureCount > 0 ? "Management does not answer; trying again …" : "Loading …"}
    </p>
  );
}

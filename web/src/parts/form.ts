/** Forms that stay as they are when they are sent: React empties a form after its `action`. */
import type { FormEvent } from "react";

export function submitted(take: (form: FormData) => unknown): (event: FormEvent<HTMLFormElement>) => void {
  return (event) => {
    event.preventDefault();
    void take(new FormData(event.currentTarget));
  };
}

/** Signing in with a token. */
import { useState } from "react";
import { api } from "../api/client";
import { Problem } from "../api/problem";
import { submitted } from "../parts/form";
import { Refusal } from "../parts/refusal";
import { proof, signIn } from "../session";

export function SignIn() {
  const [error, setError] = useState<Error | null>(null);
  const [asksForTop, setAsksForTop] = useState(false);

  const enter = async (form: FormData) => {
    setError(null);
    const token = String(form.get("token")).trim();
    const given = String(form.get("top") ?? "").trim();
    try {
      const top = given || (await api.organizations(proof({ token }))).items[0]?.name;
      if (!top) return setAsksForTop(true);
      await api.top(top, proof({ token }));
      signIn({ token, top });
    } catch (error) {
      setError(error as Error);
      setAsksForTop((before) => before || (error instanceof Problem && error.status === 404));
    }
  };
  return (
    <main className="signin">
      <h1>
        <img src="/icon.svg" alt="" width="32" height="32" /> Tombolo
      </h1>
      <form onSubmit={submitted(enter)}>
        <label>
          Token
          <input name="token" type="password" autoComplete="off" required autoFocus aria-describedby="about-token" />
        </label>
        <p id="about-token" className="hint">
          It begins with <code>tb_</code>. An administrator issues one with <code>tombolo token create USER</code>; it is kept in this
          tab only, until the tab is closed.
        </p>
        {asksForTop && (
          <label>
            Start at
            <input name="top" required placeholder="organizations/acme/tenants/payments" aria-describedby="about-top" />
            <span id="about-top" className="hint">
              You may not read the whole organization. Name the node on which you were given a role.
            </span>
          </label>
        )}
        <button type="submit">Sign in</button>
        {error && <Refusal error={error} />}
      </form>
    </main>
  );
}

/** Signing in: with a password, at the organization's provider, or with a token. */
import { useCallback, useEffect, useState, type ReactNode } from "react";
import { api } from "../api/client";
import { Problem } from "../api/problem";
import { submitted } from "../parts/form";
import { Refusal } from "../parts/refusal";
import { proof, signIn } from "../session";

/** With what a person is known: a token, or, without one, the cookie of a login. */
interface Known {
  token?: string;
  user: string;
}

export function SignIn() {
  const [looking, setLooking] = useState(true);
  const [error, setError] = useState<Error | null>(null);
  const [known, setKnown] = useState<Known | null>(null);

  /** Begins at the organization; who may not read it says where. */
  const enter = useCallback(async (token?: string, given = "") => {
    setError(null);
    const carried = proof(token ? { token } : null);
    try {
      const { user } = await api.whoami(carried);
      const top = given || (await api.organizations(carried)).items[0]?.name;
      const session = token ? { token, user } : { user };
      if (!top) return setKnown(session);
      await api.top(top, carried);
      signIn({ ...session, top });
    } catch (error) {
      setError(error as Error);
    }
  }, []);

  useEffect(() => {
    // A login in another tab, or the way back from the provider, has left its cookie; without one nothing is wrong.
    const enterByCookie = async () => {
      await enter();
      setError((error) => (error instanceof Problem && error.status === 401 ? null : error));
      setLooking(false);
    };
    void enterByCookie();
  }, [enter]);

  const byPassword = async (form: FormData) => {
    setError(null);
    try {
      await api.login({ user: String(form.get("user")).trim(), password: String(form.get("password")) });
    } catch (error) {
      return setError(error as Error);
    }
    await enter();
  };
  const leave = async () => {
    try {
      if (!known?.token) await api.logout();
      setKnown(null);
    } catch (error) {
      setError(error as Error);
    }
  };

  if (looking) return <Frame>{null}</Frame>;
  if (known) {
    return (
      <Frame>
        <p>You are {known.user}.</p>
        <form onSubmit={submitted((form) => enter(known.token, String(form.get("top")).trim()))}>
          <label>
            Start at
            <input name="top" required autoFocus placeholder="organizations/acme/tenants/payments" aria-describedby="about-top" />
            <span id="about-top" className="hint">
              You may not read the whole organization. Name the node on which you were given a role, or ask an administrator for one.
            </span>
          </label>
          <button type="submit">Go on</button>
          <button type="button" className="quiet" onClick={() => void leave()}>
            Sign out
          </button>
          {error && <Refusal error={error} />}
        </form>
      </Frame>
    );
  }
  return (
    <Frame>
      {error && <Refusal error={error} />}
      <ByProvider />
      <form onSubmit={submitted(byPassword)}>
        <label>
          Name
          <input name="user" autoComplete="username" required autoFocus />
        </label>
        <label>
          Password
          <input name="password" type="password" autoComplete="current-password" required />
        </label>
        <button type="submit">Sign in</button>
      </form>
      <details>
        <summary>With a token</summary>
        <form onSubmit={submitted((form) => enter(String(form.get("token")).trim()))}>
          <label>
            Token
            <input name="token" type="password" autoComplete="off" required aria-describedby="about-token" />
          </label>
          <p id="about-token" className="hint">
            It begins with <code>tb_</code>. An administrator issues one with <code>tombolo token create USER</code>; it is kept in
            this tab only, until the tab is closed.
          </p>
          <button type="submit">Sign in with the token</button>
        </form>
      </details>
    </Frame>
  );
}

/** The way to the provider, if people log in at one. */
function ByProvider() {
  const [issuer, setIssuer] = useState<string>();
  useEffect(() => {
    // Without an answer there is the password, whose error says more.
    api.loginMethods().then(({ provider }) => setIssuer(provider?.issuer), () => undefined);
  }, []);
  if (!issuer) return null;
  const back = encodeURIComponent(location.pathname + location.search);
  return (
    <p>
      <a className="button" href={`/auth/oidc?return=${back}`}>
        Sign in at {new URL(issuer).host}
      </a>
    </p>
  );
}

function Frame({ children }: { children: ReactNode }) {
  return (
    <main className="signin">
      <h1>
        <img src="/icon.svg" alt="" width="32" height="32" /> Tombolo
      </h1>
      {children}
    </main>
  );
}

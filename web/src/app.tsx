/** The frame around every page, and which page an address is. */
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { api } from "./api/client";
import { useIsAway } from "./api/connection";
import { Problem } from "./api/problem";
import { AuditPage } from "./pages/audit";
import { ExplainPage } from "./pages/explain";
import { PlanPage, PlansPage } from "./pages/plans";
import { ResourcePage } from "./pages/resource";
import { SearchPage } from "./pages/search";
import { ServicesPage } from "./pages/services";
import { SignIn } from "./pages/signin";
import { TreePanel } from "./pages/tree";
import { submitted } from "./parts/form";
import { go, Link, useAddress } from "./router";
import { signOut, useSession, type Session } from "./session";

const PAGES = [
  { path: "/resources", title: "Resources" },
  { path: "/services", title: "Services" },
  { path: "/explain", title: "Explain" },
  { path: "/plans", title: "Plans" },
  { path: "/audit", title: "Audit" },
];

export function App() {
  const session = useSession();
  const address = useAddress();
  const path = decodeURIComponent(address.pathname);
  const title = PAGES.find((page) => path.startsWith(page.path))?.title;
  useEffect(() => {
    document.title = title ? `${title} - Tombolo` : "Tombolo";
  }, [title]);

  if (!session) return <SignIn />;
  const name = path.startsWith("/resources/") ? path.slice("/resources/".length) : session.top;
  const withTree = path === "/" || path.startsWith("/resources");
  return (
    <>
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <Banner path={path} session={session} />
      <AwayNotice />
      <div className={withTree ? "frame with-tree" : "frame"}>
        {withTree && <TreePanel top={session.top} selected={name} />}
        <main id="main" tabIndex={-1}>
          {withTree ? <ResourcePage key={name} name={name} address={address} /> : <Page path={path} address={address} />}
        </main>
      </div>
    </>
  );
}

function Page({ path, address }: { path: string; address: URL }) {
  if (path === "/services") return <ServicesPage />;
  if (path === "/explain") return <ExplainPage address={address} />;
  if (path === "/plans") return <PlansPage />;
  if (path.startsWith("/plans/")) return <PlanPage id={path.slice("/plans/".length)} />;
  if (path === "/audit") return <AuditPage address={address} />;
  if (path === "/search") return <SearchPage key={address.search} text={address.searchParams.get("for") ?? ""} />;
  return (
    <>
      <h1>There is no such page</h1>
      <p>
        <Link to="/">All resources</Link> begin at the top.
      </p>
    </>
  );
}

function Banner({ path, session }: { path: string; session: Session }) {
  const queries = useQueryClient();
  const [stays, setStays] = useState(false);
  const leave = async () => {
    try {
      // A token is its owner's, and goes on in other places.
      if (!session.token) await api.logout();
    } catch (error) {
      // Nobody is told to be out while the cookie still opens everything.
      if (!(error instanceof Problem && error.status === 401)) return setStays(true);
    }
    // What this user could see is nothing for the next.
    queries.clear();
    signOut();
  };
  const search = (form: FormData) => go(`/search?for=${encodeURIComponent(String(form.get("for")).trim())}`);
  return (
    <header className="banner">
      <Link to="/" className="brand">
        <img src="/icon.svg" alt="" width="24" height="24" /> Tombolo
      </Link>
      <nav aria-label="Pages">
        {PAGES.map(({ path: to, title }) => (
          <Link
            key={to}
            to={to}
            aria-current={path.startsWith(to) || (to === "/resources" && path === "/") ? "page" : undefined}
          >
            {title}
          </Link>
        ))}
      </nav>
      <form role="search" onSubmit={submitted(search)}>
        <label className="hidden" htmlFor="search">
          Search for a host, a service or a name
        </label>
        <input id="search" name="for" type="search" placeholder="Host, service or name" required />
      </form>
      <span className="who" title={session.user}>
        {session.user.slice(session.user.lastIndexOf("/") + 1)}
      </span>
      <button type="button" className="quiet" onClick={() => void leave()}>
        Sign out
      </button>
      {stays && <p role="alert">You are still signed in: management does not answer. Try again.</p>}
    </header>
  );
}

function AwayNotice() {
  const away = useIsAway();
  return (
    <div role="status" aria-live="polite">
      {away && (
        <p className="notice warn">
          Management does not answer. It is asked again by itself; what you see is what it said last. Clusters and proxies go on
          without it.
        </p>
      )}
    </div>
  );
}


import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Away, Problem } from "./api/problem";
import { App } from "./app";
import { signOut } from "./session";
import "./style.css";

const RETRY_MS_MAX = 5000;

/** What is away is asked again for as long as somebody looks; a refusal is an answer. */
const queries = new QueryClient({
  defaultOptions: {
    queries: {
      networkMode: "always",
      retry: (_count, error) => error instanceof Away || (error instanceof Problem && error.status === 503),
      retryDelay: (count) => Math.min(500 * 2 ** count, RETRY_MS_MAX),
      staleTime: 5000,
      throwOnError: false,
    },
    mutations: { networkMode: "always", retry: false },
  },
});

queries.getQueryCache().subscribe((event) => {
  const error = event.query.state.error;
  if (event.type === "updated" && error instanceof Problem && error.status === 401) {
    queries.clear();
    signOut();
  }
});

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        <App />
      </QueryClientProvider>
    </StrictMode>,
  );
}

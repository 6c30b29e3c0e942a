import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [react()],
  build: {
    // The policy allows no inline content, `data:` neither.
    assetsInlineLimit: 0,
    // Its only part is the script that is loaded anyway.
    modulePreload: false,
  },
  server: {
    // `npm run dev` beside a management that runs at its usual port.
    proxy: { "/v1": "http://127.0.0.1:8080", "/auth": "http://127.0.0.1:8080" },
  },
  test: { include: ["src/**/*.test.ts"] },
});

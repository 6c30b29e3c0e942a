// The web admin in a real browser, against the management that tests/tests/web.rs has started and filled. Each step waits
// for what a person would see; the first that does not come fails the run and tells what was on the screen instead.
import { mkdirSync } from "node:fs";
import bundled from "@sparticuz/chromium";
import { chromium } from "playwright-core";

const { TOMBOLO_URL, TOMBOLO_PASSWORD, TOMBOLO_CHROMIUM, TOMBOLO_SCREENSHOTS } = process.env;
const TOKENS = {
  admin: process.env.TOMBOLO_TOKEN,
  reader: process.env.TOMBOLO_READER_TOKEN,
  other: process.env.TOMBOLO_OTHER_TOKEN,
  guest: process.env.TOMBOLO_GUEST_TOKEN,
};
/** For one thing to appear: a machine that builds beside us is slow. */
const PATIENCE_MS = 20_000;
const PAY = "organizations/acme/tenants/pay";
const ROUTE = `${PAY}/workspaces/checkout/trafficgroups/web/serviceroutes/cart`;
const HELD = "organizations/acme/tenants/held";

/** Neither as root nor without a display does a browser start otherwise. */
const ARGS = ["--no-sandbox", "--disable-gpu"];

const executablePath = TOMBOLO_CHROMIUM || (await bundled.executablePath());
const browser = await chromium.launch({ executablePath, args: ARGS });
const complaints = [];
let page;
let pictures = 0;

try {
  await step("a token that is wrong is refused with what to do", async () => {
    page = await newPage();
    await page.goto(TOMBOLO_URL);
    await useToken("tb_nonsense");
    await see(page.getByRole("alert"), "Sign in again");
  });

  await step("an administrator signs in and sees the tree", async () => {
    await page.getByLabel("Token").fill(TOKENS.admin);
    await page.getByRole("button", { name: "Sign in with the token" }).click();
    const tree = page.getByRole("navigation", { name: "Resources" });
    await see(tree.getByRole("link", { name: /^.*checkout/ }));
    await tree.getByLabel("Show names that hold").fill("cart");
    await tree.getByRole("link", { name: /cart/ }).click();
    await see(page.getByRole("heading", { level: 1 }), "cart");
    await see(page.getByLabel(`Document of ${ROUTE}`), "weight: 95");
  });

  await step("what cannot be is marked at its line", async () => {
    await edit((text) => text.replace("weight: 95", "weight: heavy"));
    await see(page.locator("#mistakes").getByRole("button", { name: /line \d/ }));
    await page.getByRole("button", { name: "Cancel" }).click();
    await write((text) => text.replace("weight: heavy", "weight: [90"));
    await page.getByRole("button", { name: "Plan", exact: true }).click();
    await see(page.locator("#mistakes").getByRole("button", { name: /line \d/ }));
  });

  await step("a route is edited, planned and applied", async () => {
    await write((text) => text.replace("weight: [90", "weight: 80").replace("weight: 5", "weight: 20"));
    await page.getByRole("button", { name: "Plan", exact: true }).click();
    const plan = page.getByRole("region", { name: "Plan" });
    await see(plan.locator(".diff"), "weight: 80");
    await see(plan.locator(".diff .out").first(), "weight: 95");
    await plan.getByRole("button", { name: "Apply" }).click();
    await see(page.getByRole("region", { name: "Receipt", exact: true }), "Applied as revision");
    await page.getByRole("button", { name: "Done" }).click();
    await see(page.getByLabel(`Document of ${ROUTE}`), "weight: 80");
  });

  await step("its history has the new revision, and the way back", async () => {
    await page.getByRole("link", { name: "History" }).click();
    const revisions = page.getByRole("article");
    await see(revisions.nth(1));
    await revisions.first().getByRole("button", { name: "What it changed" }).click();
    await see(revisions.first().locator(".diff"), "weight: 80");
    await revisions.nth(1).getByRole("button", { name: "Roll back to it" }).click();
    const plan = page.getByRole("region", { name: "Plan" });
    await see(plan.locator(".diff .in").first(), "weight: 95");
    await plan.getByRole("button", { name: "Apply" }).click();
    await see(page.getByRole("region", { name: "Receipt", exact: true }), "Applied as revision");
    await page.getByRole("button", { name: "Done" }).click();
    await see(revisions.nth(2));
    await page.getByRole("link", { name: "Document" }).click();
    await see(page.getByLabel(`Document of ${ROUTE}`), "weight: 95");
  });

  await step("what somebody else has changed meanwhile is not overwritten", async () => {
    await page.getByRole("button", { name: "Edit" }).click();
    await write((text) => text.replace("weight: 95", "weight: 60"));
    const { etag, ...route } = await (await call("get", ROUTE)).json();
    await call("put", ROUTE, { headers: { "if-match": etag }, data: { ...route, description: "by somebody else" } });
    await page.getByRole("button", { name: "Plan", exact: true }).click();
    await see(page.getByRole("alert"), "Somebody has changed it since you opened it");
    await page.getByRole("button", { name: "Cancel" }).click();
  });

  await step("settings name who decided them", async () => {
    await page.goto(`${TOMBOLO_URL}/resources/${PAY}/workspaces/checkout?tab=settings`);
    const row = page.getByRole("row", { name: /loadBalancing/ }).first();
    await see(row, `${PAY}/trafficsettings/default`);
  });

  await step("services, a search and an explanation answer", async () => {
    await page.getByRole("link", { name: "Services" }).first().click();
    await see(page.getByRole("region", { name: `${PAY}/workspaces/checkout` }), "No cluster offers");
    await page.getByLabel("Search for a host").fill("pay.example.com");
    await page.getByLabel("Search for a host").press("Enter");
    await see(page.getByRole("cell", { name: /gateways\/door/ }), "Gateway");
    await page.getByRole("link", { name: "Explain" }).click();
    await page.getByLabel("From").fill("us-east/gateway/door");
    await page.getByLabel("URL").fill("http://pay.example.com/");
    await page.getByRole("button", { name: "Explain" }).click();
    await see(page.getByRole("region", { name: "Answer" }), "nothing takes it");
    await see(page.getByRole("region", { name: "What would have to change" }), "runs nowhere");
  });

  await step("where a policy asks for it, a plan is submitted", async () => {
    await page.goto(`${TOMBOLO_URL}/resources/${HELD}`);
    await edit((text) => `${text}description: by two persons\n`);
    await page.getByRole("button", { name: "Apply" }).click();
    await page.getByLabel("For those who are to approve it").fill("name it");
    await page.getByRole("button", { name: "Submit for approval" }).click();
    await see(page.getByRole("heading", { level: 1 }), "name it");
    await page.getByRole("button", { name: "Approve" }).click();
    await see(page.getByRole("alert"), "nobody approves their own plan");
  });

  await step("somebody else approves it, and it is applied", async () => {
    await signInAs("other");
    await page.getByRole("link", { name: "Plans" }).click();
    await page.getByRole("link", { name: "name it" }).click();
    await see(page.locator(".diff .in").first(), "by two persons");
    await page.getByRole("button", { name: "Approve" }).click();
    await see(page.getByRole("region", { name: "Votes" }), "approves");
    await page.getByRole("button", { name: "Apply" }).click();
    await see(page.getByRole("heading", { level: 1 }), "applied");
    await see(page.getByRole("region", { name: "Receipt", exact: true }), "live");
  });

  await step("who has a role on a part starts there", async () => {
    await page.context().close();
    page = await newPage();
    await page.goto(TOMBOLO_URL);
    await useToken(TOKENS.guest);
    await see(page.getByText("organizations/acme/users/gina"));
    await page.getByLabel("Start at").fill(HELD);
    await page.getByRole("button", { name: "Go on" }).click();
    await see(page.getByRole("heading", { level: 1 }), "held");
    await absent(page.getByRole("link", { name: /checkout/ }));
  });

  await step("a reader reads, and is told why not more", async () => {
    await signInAs("reader");
    await page.goto(`${TOMBOLO_URL}/resources/${ROUTE}`);
    await edit((text) => text.replace("weight: 95", "weight: 50"));
    const refused = page.getByRole("alert");
    await see(refused, "organizations/acme/users/rita needs the role traffic-admin");
    await absent(page.getByRole("button", { name: "Apply" }));
  });

  await step("the audit has it all, and grows as one looks", async () => {
    await signInAs("admin");
    await page.getByRole("link", { name: "Audit" }).click();
    await see(page.getByRole("row", { name: /denied/ }), "rita");
    await page.getByLabel("Resource, and below").fill(PAY);
    await page.getByLabel("Outcome").selectOption("done");
    await page.getByRole("button", { name: "Show" }).click();
    await absent(page.getByRole("row", { name: /denied/ }));
    await see(page.getByRole("row", { name: /serviceroutes\/cart/ }).nth(2));
    await page.getByLabel("Show new records").check();
    await see(page.getByText("Following"));
    await call("post", "changes", { data: { name: `${PAY}/workspaces/later`, spec: { namespaces: ["*/later"] } } });
    await see(page.getByRole("row", { name: /workspaces\/later/ }));
  });

  await step("a person signs in with a password, writes, and signs out", async () => {
    await page.context().close();
    page = await newPage();
    await page.goto(`${TOMBOLO_URL}/resources/${ROUTE}`);
    await page.getByLabel("Name").fill("petra");
    await page.getByLabel("Password").fill("not her password");
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
    await see(page.getByRole("alert"), "no such user with that password");
    await page.getByLabel("Password").fill(TOMBOLO_PASSWORD);
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
    await see(page.getByRole("navigation", { name: "Resources" }).getByRole("link", { name: /checkout/ }));
    await see(page.getByRole("banner"), "petra");
    await see(page.getByLabel(`Document of ${ROUTE}`), "weight: 95");
    await edit((text) => text.replace("weight: 95", "weight: 90").replace("weight: 5", "weight: 10"));
    await page.getByRole("region", { name: "Plan" }).getByRole("button", { name: "Apply" }).click();
    await see(page.getByRole("region", { name: "Receipt", exact: true }), "Applied as revision");
    await signOutForGood();
  });

  await step("a person of the provider signs in there, reads the tree, and signs out", async () => {
    await page.context().close();
    page = await newPage();
    await page.goto(`${TOMBOLO_URL}/resources/${PAY}`);
    await page.getByRole("link", { name: /^Sign in at 127/ }).click();
    await see(page.getByRole("heading", { level: 1 }), "pay");
    await see(page.getByRole("navigation", { name: "Resources" }).getByRole("link", { name: /checkout/ }));
    await see(page.getByRole("banner"), "bea-lee");
    await signOutForGood();
  });

  await step("while management is away the page stays, and says so", async () => {
    await signInAs("admin");
    await page.goto(`${TOMBOLO_URL}/resources/${ROUTE}`);
    await see(page.getByLabel(`Document of ${ROUTE}`));
    await page.route("**/v1/**", (route) => route.abort());
    await page.getByRole("link", { name: "Status" }).click();
    await page.getByRole("link", { name: "History" }).click();
    await see(page.getByText("Management does not answer. It is asked again by itself"));
    await page.unroute("**/v1/**");
    await see(page.getByRole("article").first(), "revision");
    await absent(page.getByText("It is asked again by itself"));
  });

  if (complaints.length > 0) throw new Error(`the browser complains:\n${complaints.join("\n")}`);
} catch (error) {
  console.log(`FAILED: ${error.message}`);
  if (page) console.log(`${page.url()}\n${await page.locator("body").innerText()}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}

async function step(what, does) {
  try {
    await does();
  } catch (error) {
    throw new Error(`${what}: ${error.message}`);
  }
  console.log(`ok: ${what}`);
  await picture();
}

async function newPage() {
  const context = await browser.newContext({ viewport: { width: 1300, height: 900 } });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => {
    // A refusal is an answer; the browser notes it all the same.
    const isRefusal = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isRefusal) complaints.push(message.text());
  });
  page.on("dialog", (dialog) => dialog.accept());
  return page;
}

async function signInAs(who) {
  await page.context().close();
  page = await newPage();
  await page.goto(TOMBOLO_URL);
  await useToken(TOKENS[who]);
  await see(page.getByRole("navigation", { name: "Pages" }));
}

async function useToken(token) {
  await page.getByText("With a token").click();
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in with the token" }).click();
}

/** Out for the server as well: the cookie that a copy of the browser would still have opens nothing. */
async function signOutForGood() {
  const cookies = await page.context().cookies(TOMBOLO_URL);
  const cookie = cookies.map(({ name, value }) => `${name}=${value}`).join("; ");
  const whoami = () => fetch(`${TOMBOLO_URL}/v1/auth:whoami`, { headers: { cookie } });
  const before = await whoami();
  if (before.status !== 200) throw new Error(`the cookie is no session: ${before.status}`);
  await page.getByRole("button", { name: "Sign out" }).click();
  await see(page.getByRole("button", { name: "Sign in", exact: true }));
  const after = await whoami();
  if (after.status !== 401) throw new Error(`the session is still open: ${after.status}`);
  await page.reload();
  await see(page.getByRole("button", { name: "Sign in", exact: true }));
}

/** From the document to its plan. */
async function edit(change) {
  await page.getByRole("button", { name: "Edit" }).click();
  await write(change);
  await page.getByRole("button", { name: "Plan", exact: true }).click();
}

async function write(change) {
  const field = page.getByLabel("Document, as YAML");
  await field.fill(change(await field.inputValue()));
}

/** As an administrator elsewhere. */
async function call(method, path, { headers, data } = {}) {
  const authorization = `Bearer ${TOKENS.admin}`;
  const response = await page.request[method](`${TOMBOLO_URL}/v1/${path}`, { headers: { authorization, ...headers }, data });
  if (!response.ok()) throw new Error(`${method} ${path}: ${await response.text()}`);
  return response;
}

async function see(locator, text) {
  const wanted = text === undefined ? locator : locator.filter({ hasText: text });
  await wanted.first().waitFor({ timeout: PATIENCE_MS });
}

async function absent(locator) {
  await locator.first().waitFor({ state: "detached", timeout: PATIENCE_MS });
}

/** For people who change the admin: how it looks, in light and in dark. */
async function picture() {
  if (!TOMBOLO_SCREENSHOTS) return;
  mkdirSync(TOMBOLO_SCREENSHOTS, { recursive: true });
  pictures += 1;
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    const path = `${TOMBOLO_SCREENSHOTS}/${String(pictures).padStart(2, "0")}-${colorScheme}.png`;
    await page.screenshot({ path });
  }
}

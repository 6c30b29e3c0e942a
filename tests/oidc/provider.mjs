// A real OpenID provider for the tests: `node provider.mjs`. It prints the port that it listens on, on 127.0.0.1, and lets
// in whom the authorization request's `login_hint` names, or else `VISITOR`, without asking.

import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const installed = path.join(process.env.TOMBOLO_OIDC_PROVIDER, 'node_modules/oidc-provider/lib/index.js');
const { default: Provider } = await import(pathToFileURL(installed));

// The claims of everybody, by subject, as they are now.
const people = () => JSON.parse(fs.readFileSync(process.env.PEOPLE));
const server = http.createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'tombolo',
      client_secret: process.env.CLIENT_SECRET,
      redirect_uris: ['http://127.0.0.1/auth/callback'],
      grant_types: ['authorization_code'],
      response_types: ['code'],
    },
  ],
  claims: { openid: ['sub'], profile: ['name', 'preferred_username', 'groups'], email: ['email'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['of a test'] },
  features: { devInteractions: { enabled: false } },
  findAccount: async (ctx, id) => people()[id] && { accountId: id, claims: async () => ({ sub: id, ...people()[id] }) },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  loadExistingGrant: async (ctx) => {
    const grant = new provider.Grant({
      accountId: ctx.oidc.session.accountId,
      clientId: ctx.oidc.client.clientId,
    });
    grant.addOIDCScope('openid profile email');
    await grant.save();
    return grant;
  },
  pkce: { required: () => true },
});

// Management listens on another port in each test.
provider.Client.prototype.redirectUriAllowed = (given) => {
  const url = new URL(given);
  return url.hostname === '127.0.0.1' && url.pathname === '/auth/callback';
};

const handle = provider.callback();
server.on('request', async (request, response) => {
  if (!request.url.startsWith('/interaction/')) {
    return handle(request, response);
  }
  try {
    const { params } = await provider.interactionDetails(request, response);
    const person = params.login_hint ?? process.env.VISITOR;
    const result = people()[person]
      ? { login: { accountId: person } }
      : { error: 'access_denied', error_description: 'nobody of that name' };
    await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});
console.log(`listening on ${server.address().port}`);

// An issuer of tokens that others wrote (npm oauth2-mock-server), told over HTTP what to sign.
//
//   node issuer.mjs NODE_MODULES PORT
//
//   POST /make    {"claims": {}, "key": "first", "lives": 300} -> a token
//   POST /rotate  {"key": "second", "algorithm": "ES256"}      -> one key more
//   POST /move    {"issuer": "https://elsewhere"}              -> says it is another from now on
//   GET  /pem     -> the first public key
//   GET  /asked   -> how often its keys were asked for

import { createPublicKey } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, port] = process.argv.slice(2);
const { OAuth2Server } = await import(pathToFileURL(join(modules, 'oauth2-mock-server/dist/index.mjs')));

const server = new OAuth2Server();
await server.issuer.keys.generate('RS256', { kid: 'first' });
let asked = 0;
const answer = (response, text) => {
  response.statusCode = 200;
  response.end(text);
};
server.service.addRoute('POST', '/make', async (request, response) => {
  const { claims = {}, key = 'first', lives = 300 } = request.body;
  const token = await server.issuer.buildToken({
    kid: key,
    expiresIn: lives,
    scopesOrTransform: (_, payload) => Object.assign(payload, claims),
  });
  answer(response, token);
});
server.service.addRoute('POST', '/rotate', async (request, response) => {
  const { key, algorithm } = request.body;
  await server.issuer.keys.generate(algorithm, { kid: key });
  answer(response, 'done');
});
server.service.addRoute('POST', '/move', (request, response) => {
  server.issuer.url = request.body.issuer;
  answer(response, 'done');
});
server.service.addRoute('GET', '/pem', (_, response) => {
  const { kty, n, e } = server.issuer.keys.get('first');
  answer(response, createPublicKey({ key: { kty, n, e }, format: 'jwk' }).export({ type: 'spki', format: 'pem' }));
});
server.service.addRoute('GET', '/asked', (_, response) => answer(response, String(asked)));
server.service.on('beforeWellKnownOpenIdConfiguration', () => {
  asked += 1;
});
await server.start(Number(port), '127.0.0.1');
// By itself it says `localhost`.
server.issuer.url = `http://127.0.0.1:${port}`;

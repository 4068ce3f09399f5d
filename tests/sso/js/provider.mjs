// oidc-provider, with two clients: one as most providers have it, and one as ProConnect has it, which signs what it says of
// people and takes the secret in the body.

import { generateKeyPairSync } from "node:crypto";

import Provider from "oidc-provider";

export const SECRET = "the client's secret & more";

const key = (type, options, alg) => {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: "jwk" }), alg, use: "sig", kid: alg };
};

export const start = (host, port, server) => {
  const issuer = `http://${host}:${port}`;
  const client = (id, more) => ({
    client_id: id,
    client_secret: SECRET,
    redirect_uris: [`${server}/_chappe/sso/callback/${id}`],
    ...more,
  });
  const provider = new Provider(issuer, {
    clients: [
      client("plain", {}),
      client("signed", {
        token_endpoint_auth_method: "client_secret_post",
        id_token_signed_response_alg: "ES256",
        userinfo_signed_response_alg: "PS256",
      }),
    ],
    jwks: {
      keys: [
        key("rsa", { modulusLength: 2048 }, "RS256"),
        key("rsa", { modulusLength: 2048 }, "PS256"),
        key("ec", { namedCurve: "P-256" }, "ES256"),
      ],
    },
    enabledJWA: { idTokenSigningAlgValues: ["RS256", "ES256"], userinfoSigningAlgValues: ["PS256"] },
    features: { jwtUserinfo: { enabled: true } },
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "preferred_username"] },
    pkce: { required: () => true },
    cookies: { keys: ["a key of this test"] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({
        sub: id,
        name: `${id} of the provider`,
        preferred_username: id,
        email: `${id}@example.org`,
        email_verified: id !== "mallory",
      }),
    }),
  });
  provider.on("server_error", (_, error) => console.error(error));
  return new Promise((started) => {
    const listening = provider.listen(port, host, () => started(listening));
  });
};

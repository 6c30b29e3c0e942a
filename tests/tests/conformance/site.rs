//! What the conformance test plays with: intent, platform and applications.

use tombolo_tests::proxy::Software;

/// The resources of all, and the gateways of each proxy.
pub(crate) fn intent() -> String {
    let gateways = Software::BOTH.map(|software| GATEWAYS.replace("PROXY", software.name()));
    format!("{SHARED}{}", gateways.concat())
}

const SHARED: &str = "
- {name: organizations/acme}
- {name: organizations/acme/clusters/here, spec: {region: north}}
- {name: organizations/acme/clusters/there, spec: {region: south}}
- {name: organizations/acme/tenants/t}
- {name: organizations/acme/tenants/t/workspaces/w, spec: {namespaces: ['*/shop']}}
- {name: organizations/acme/tenants/t/workspaces/w/trafficgroups/g}
# Nothing comes near these limits: it is enough that each proxy takes them.
- name: organizations/acme/tenants/t/workspaces/w/trafficgroups/g/trafficsettings/default
  spec: {defaults: {resilience: {connectionsMax: 1000, requestsMax: 1000, outliers: {errors: 1000000, ejection: 1s}}}}
- {name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g}
- {name: organizations/acme/tenants/t/applications/a, spec: {workspace: organizations/acme/tenants/t/workspaces/w}}
- name: organizations/acme/tenants/t/workspaces/w/trafficgroups/g/serviceroutes/web
  spec:
    service: shop/web
    subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
    rules:
    - matches: [{path: {type: Exact, value: /exact}}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /prefix}}]
      backendRefs: [{subset: v2}]
    - matches: [{headers: [{name: x-variant, value: two}]}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /split}}]
      backendRefs: [{subset: v1, weight: 80}, {subset: v2, weight: 20}]
    - matches: [{path: {type: PathPrefix, value: /split}, headers: [{name: x-variant, value: two}]}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /slow}}]
      backendRefs: [{subset: v1}]
      timeouts: {request: 300ms}
    - matches: [{path: {type: PathPrefix, value: /broken}}]
      backendRefs: [{subset: v3}]
    - matches: [{path: {type: PathPrefix, value: /method}, method: POST}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /query}, queryParams: [{name: variant, value: two}]}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: RegularExpression, value: '/pattern/v\\d+/[^/]+'}}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /pattern}, headers: [{type: RegularExpression, name: x-variant, value: 'two|t.*,2'}]}]
      backendRefs: [{subset: v2}]
    - matches:
      - {path: {type: PathPrefix, value: /pattern}, queryParams: [{type: RegularExpression, name: variant, value: 't[a-z]{2}'}]}
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /cookie}, cookies: [{name: variant, value: two}]}]
      backendRefs: [{subset: v2}]
    - matches:
      - {path: {type: PathPrefix, value: /cookie}, cookies: [{type: RegularExpression, name: Group, value: 'test-.*'}]}
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /mirror}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {subset: v2}}}]
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /mirror/never}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {subset: v2}, percent: 0}}]
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /fault/abort}}]
      fault: {delay: {duration: 1ms}, abort: {statusCode: 429}}
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /fault/half}}]
      fault: {abort: {statusCode: 418, percent: 50}}
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /fault/delay}}]
      # Its timeout begins when it has waited.
      fault: {delay: {duration: 3s}}
      timeouts: {request: 2s}
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /headers}}]
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier:
          set: [{name: x-set, value: 100%}]
          add: [{name: x-add, value: more}]
          remove: [x-remove]
      - type: ResponseHeaderModifier
        responseHeaderModifier: {set: [{name: x-route, value: filtered}], remove: [content-type]}
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /rewrite/prefix}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /rewrite/root}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /rewrite/whole}}]
      filters:
      - type: URLRewrite
        urlRewrite: {hostname: other.example.com, path: {type: ReplaceFullPath, replaceFullPath: /whole}}
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /redirect/secure}}]
      filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
    - matches: [{path: {type: PathPrefix, value: /redirect/elsewhere}}]
      filters:
      - type: RequestRedirect
        requestRedirect:
          hostname: elsewhere.example.com
          port: 8443
          path: {type: ReplaceFullPath, replaceFullPath: /there}
          statusCode: 308
    - matches: [{path: {type: PathPrefix, value: /redirect/prefix}}]
      filters:
      - type: RequestRedirect
        requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /moved}, statusCode: 307}
    - backendRefs: [{subset: v1}]
";

/// `PROXY` is the proxy's name.
const GATEWAYS: &str = "
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [PROXY.example.com]
    rules:
    - matches: [{path: {type: RegularExpression, value: '/pattern/.*/item'}}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-by, value: pattern}]}}]
      backendRefs: [{namespace: shop, name: web}]
    - matches: [{path: {type: PathPrefix, value: /session}}]
      sessionPersistence: {type: Header, sessionName: x-session}
      backendRefs: [{namespace: shop, name: pair}]
    - matches: [{path: {type: PathPrefix, value: /session/cookie}}]
      sessionPersistence: {sessionName: cart}
      backendRefs: [{namespace: shop, name: pair}]
    - matches: [{path: {type: PathPrefix, value: /fault/abort/gateway}}]
      fault: {abort: {statusCode: 451}}
      backendRefs: [{namespace: shop, name: web}]
    - matches: [{path: {type: PathPrefix, value: /mirror}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {namespace: shop, name: far, port: 8080}}}]
      backendRefs: [{namespace: shop, name: web}]
    - backendRefs: [{namespace: shop, name: web}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-limited
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [limited.PROXY.example.com]
    cors: {allowOrigins: ['https://pages.example.com']}
    rateLimit: {requests: 30, per: 24h}
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-pages
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [pages.PROXY.example.com]
    cors:
      allowOrigins: ['https://pages.example.com', 'https://a.example.com:8443']
      allowMethods: [GET, POST]
      allowHeaders: [content-type, x-a]
      exposeHeaders: [x-b]
      allowCredentials: true
      maxAge: 10m
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-open
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [open.PROXY.example.com]
    cors: {allowOrigins: ['*']}
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-below
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [below.PROXY.example.com]
    cors: {allowOrigins: ['https://*.example.com'], allowHeaders: ['*'], allowCredentials: true}
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-guarded
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [guarded.PROXY.example.com]
    cors: {allowOrigins: ['https://pages.example.com']}
    authorization:
      allow:
      - methods: [GET, HEAD]
        paths: [{type: PathPrefix, value: /open}]
      - sources: [127.0.0.0/8]
        paths: [{type: Exact, value: /near}]
      - sources: [192.0.2.0/24, '2001:db8::/32']
      deny:
      - paths: [{type: PathPrefix, value: /open/not}]
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-shut
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [shut.PROXY.example.com]
    authorization: {allow: []}
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-tokens
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [tokens.PROXY.example.com]
    jwt:
      issuers:
      - {issuer: conformance, jwksUri: 'https://127.0.29.70:8443/keys'}
      - {issuer: partner, audiences: [web], jwksUri: 'https://127.0.29.70:8443/partner'}
      # At whom nobody ever listens.
      - {issuer: gone, jwksUri: 'https://127.0.29.71:8443/keys'}
    authorization:
      allow:
      - paths: [{type: PathPrefix, value: /open}]
      - claims: {role: [admin, staff], team: [web]}
        paths: [{type: PathPrefix, value: /admin}]
      - claims: {scope: [read]}
        paths: [{type: Exact, value: /read}]
      - sources: [192.0.2.0/24]
        claims: {role: [admin]}
      deny:
      - claims: {sub: [mallory]}
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/PROXY-moved
  spec:
    workload: mesh/PROXY
    type: ingress
    port: 8080
    hosts: [moved.PROXY.example.com]
    redirect: {scheme: https, hostname: new.example.com, port: 8443, statusCode: 308}
- name: organizations/acme/tenants/t/applications/a/apis/PROXY
  spec:
    workload: mesh/PROXY
    port: 8080
    backendRefs: [{namespace: shop, name: web}]
    openapi:
      openapi: 3.1.0
      info: {title: items, version: '1'}
      servers: [{url: 'http://api.PROXY.example.com/v1.0'}]
      paths:
        /items: {get: {}, post: {}}
        /items/{id}: {parameters: [{in: path, name: id}], get: {}, delete: {}}
";

pub(crate) const PLATFORM: &str = "
services:
- namespace: shop
  name: web
  ports: [{name: http, port: 8080}]
  instances:
  - {address: 127.0.29.11, labels: {version: v1}}
  - {address: 127.0.29.12, labels: {version: v2}}
- namespace: shop
  name: pair
  ports: [{name: http, port: 8080}]
  instances: [{address: 127.0.29.21}, {address: 127.0.29.22}]
- namespace: shop
  name: grpc
  ports: [{name: grpc, port: 9090, protocol: http2}]
  instances: [{address: 127.0.29.31}]
- namespace: shop
  name: half
  ports: [{name: http, port: 8080}]
  instances: [{address: 127.0.29.41}, {address: 127.0.29.42}, {address: 127.0.29.43, state: down}]
- namespace: shop
  name: far
  ports: [{name: http, port: 8080}]
  instances: [{address: 127.0.29.51}]
gateways:
- {namespace: mesh, name: envoy, bind: 127.0.29.1}
- {namespace: mesh, name: tombolo, bind: 127.0.29.2}
";

/// Name, address and port of each application. `half-down` is said to be down and would answer; at 127.0.29.42 nobody
/// ever listens; `far-gateway` stands for another cluster's gateway.
pub(crate) const APPLICATIONS: &[(&str, &str)] = &[
    ("web-v1", "127.0.29.11:8080"),
    ("web-v2", "127.0.29.12:8080"),
    ("pair-a", "127.0.29.21:8080"),
    ("pair-b", "127.0.29.22:8080"),
    ("grpc", "127.0.29.31:9090"),
    ("half-up", "127.0.29.41:8080"),
    ("half-down", "127.0.29.43:8080"),
    ("far-local", "127.0.29.51:8080"),
    ("far-gateway", "127.0.29.60:15443"),
];

/// Where the issuers of tokens have their keys, and as whom they show them.
pub(crate) const KEYS: &str = "127.0.29.70:8443";
pub(crate) const KEYS_NAME: &str = "127.0.29.70";

/// Which instances must have answered through a proxy before its cases begin, and again after one was away.
pub(crate) const SERVING: &[(&str, &[&str])] = &[
    ("pair.shop:8080", &["pair-a", "pair-b"]),
    ("grpc.shop:9090", &["grpc"]),
    ("half.shop:8080", &["half-up"]),
    ("far.shop:8080", &["far-local"]),
];

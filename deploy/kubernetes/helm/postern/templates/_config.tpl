{{- define "postern.postern.toml" -}}
# Made by the chart, for mode {{ .Values.mode }}. A change is loaded while postern runs, but for the addresses in [listen].
include = {{ .Values.config.include | toJson }}

[listen]
{{- if include "postern.endsTls" . }}
https = "0.0.0.0:8443"
{{- else }}
http = "0.0.0.0:8080"
{{- if eq .Values.mode "authorizer-http" }}
authz = "0.0.0.0:8081"
{{- else }}
ext_authz = "0.0.0.0:8082"
{{- end }}
{{- end }}
admin = "{{ ternary "127.0.0.1" "0.0.0.0" (eq .Values.mode "sidecar") }}:9900"
{{- with .Values.trustedProxies }}
trusted_proxies = {{ . | toJson }}
{{- end }}
{{- if include "postern.endsTls" . }}

[tls]
cert_file = "../tls/tls.crt"
key_file = "../tls/tls.key"
{{- end }}
{{- if eq .Values.mode "authorizer-http" }}

[authz]
convention = "nginx"
{{- end }}

[token]
secret_file = "../secrets/token.key"
{{- if ne .Values.mode "sidecar" }}
claims = ["cdr", "cdr/files", "cdr/media"]

[admin]
token_file = "../secrets/admin.token"
{{- end }}

[limits]
drain_delay = "{{ .Values.drain.delay }}s"
drain_timeout = "{{ .Values.drain.timeout }}s"
{{- end -}}

{{- define "postern.who.toml" -}}
{{- if .Values.users.existingSecret -}}
[directory]
file = "../users/users.toml"
{{- else -}}
{{- if .Values.redis.url -}}
# Users and sessions are the engine's. What ends at the engine goes on here for at most `revalidate`.
{{- else -}}
# Users and sessions are the engine's. What ends at another replica or at the engine goes on here for at most `revalidate`.
{{- end }}
[directory]
webitel = { url = {{ .Values.engine.url | toJson }} }
{{- if ne .Values.mode "sidecar" }}

[login]
answers = "engine"
{{- end }}
{{- end }}

{{ if .Values.redis.url -}}
[sessions.redis]
url = {{ .Values.redis.url | toJson }}
{{- if .Values.redis.existingSecret }}
username = {{ .Values.redis.username | toJson }}
password_file = "../redis/password"
{{- end }}
{{- if .Values.redis.caFromSecret }}
ca_file = "../redis/ca.crt"
{{- end }}
max_stale = {{ .Values.redis.maxStale | toJson }}
{{- else -}}
[sessions]
{{- if .Values.users.existingSecret }}
file = "/var/lib/postern/sessions.db"
{{- else if eq .Values.mode "sidecar" }}
file = "/var/lib/postern/sessions.db"   # lives as long as the pod
{{- else }}
file = ""
{{- end }}
{{- end }}
{{- if not .Values.users.existingSecret }}

[sessions.adopt]
url = {{ .Values.engine.url | toJson }}
revalidate = {{ .Values.engine.revalidate | toJson }}
{{- if ne .Values.mode "sidecar" }}
max_lookups_per_second = 500
{{- end }}
{{- end }}
{{- end -}}

{{- define "postern.routes.toml" -}}
{{- if eq .Values.mode "sidecar" -}}
[upstreams.app]
servers = ["http://127.0.0.1:{{ .Values.app.port }}"]
forward_credentials = false   # it believes X-Webitel-User, which only postern can have set

[[routes]]
path = "/"
resource = "app"
upstream = "app"

[roles.user]
number = 0
allow = { "app" = ["r"] }
{{- else -}}
# An example: set config.routes. What no route matches is refused.
[upstreams.engine]
servers = ["http://engine:10022"]
health = { path = "/favicon.ico", interval = "5s" }

[[routes]]
path = "/favicon.ico"
methods = ["GET"]
access = "public"
upstream = "engine"

[[routes]]
path = "/api/v2/whoami"
access = "authenticated"
upstream = "engine"

[[routes]]
path = "/api/v2/accounts"
resource = "account"
upstream = "engine"

[[routes]]
path = "/api/v2/callcenter/queues"
resource = "cc/queue"
upstream = "engine"

[roles.user]
number = 0
allow = { "account" = ["r"], "cc/queue" = ["r"] }

[roles.admin]
number = 1
inherits = ["user"]
allow = { "account" = ["*"], "cc/queue" = ["*"] }
{{- end -}}
{{- end -}}

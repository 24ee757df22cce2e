{{- define "postern.postern.toml" -}}
# Made by the chart, for mode {{ .Values.mode }}. A change is loaded while postern runs, but for the addresses in [listen].
include = {{ .Values.config.include | toJson }}

[listen]
{{- if eq .Values.mode "standalone" }}
https = "0.0.0.0:8443"
{{- else }}
http = "0.0.0.0:8080"
{{- if eq .Values.mode "authorizer-http" }}
authz = "0.0.0.0:8081"
{{- else }}
ext_authz = "0.0.0.0:8082"
{{- end }}
{{- end }}
admin = "0.0.0.0:9900"
{{- with .Values.trustedProxies }}
trusted_proxies = {{ . | toJson }}
{{- end }}
{{- if eq .Values.mode "standalone" }}

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
claims = ["cdr", "cdr/files", "cdr/media"]

[admin]
token_file = "../secrets/admin.token"

[limits]
drain_delay = "{{ .Values.drain.delay }}s"
drain_timeout = "{{ .Values.drain.timeout }}s"
{{- end -}}

{{- define "postern.who.toml" -}}
{{- if .Values.users.existingSecret -}}
[directory]
file = "../users/users.toml"

[sessions]
file = "/var/lib/postern/sessions.db"
{{- else -}}
# Users and sessions are the engine's. What ends at another replica or at the engine goes on here for at most `revalidate`.
[directory]
webitel = { url = {{ .Values.engine.url | toJson }} }

[login]
answers = "engine"

[sessions]
file = ""

[sessions.adopt]
url = {{ .Values.engine.url | toJson }}
revalidate = {{ .Values.engine.revalidate | toJson }}
max_lookups_per_second = 500
{{- end -}}
{{- end -}}

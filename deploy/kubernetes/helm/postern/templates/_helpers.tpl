{{- define "postern.name" -}}
{{- .Values.nameOverride | default .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "postern.selector" -}}
app.kubernetes.io/name: postern
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "postern.labels" -}}
{{ include "postern.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "postern.configMap" -}}
{{- .Values.config.existingConfigMap | default (printf "%s-config" (include "postern.name" .)) -}}
{{- end -}}

{{- define "postern.claim" -}}
{{- .Values.persistence.existingClaim | default (printf "%s-sessions" (include "postern.name" .)) -}}
{{- end -}}

{{/* Whether it has a certificate: "true" or nothing. */}}
{{- define "postern.endsTls" -}}
{{- if has .Values.mode (list "standalone" "sidecar") }}true{{ end -}}
{{- end -}}

{{/* Whether sessions are on a volume of one replica: "true" or nothing. */}}
{{- define "postern.onVolume" -}}
{{- if and .Values.users.existingSecret (not .Values.redis.url) }}true{{ end -}}
{{- end -}}

{{/* The ports of a mode, but for the admin's: name, number of the container, number of the Service. */}}
{{- define "postern.ports" -}}
{{- if include "postern.endsTls" . }}
- { name: https, port: 8443, service: {{ .Values.service.port }} }
{{- else }}
- { name: http, port: 8080, service: 8080 }
{{- if eq .Values.mode "authorizer-http" }}
- { name: authz, port: 8081, service: 8081 }
{{- else }}
- { name: ext-authz, port: 8082, service: 8082 }
{{- end }}
{{- end }}
{{- end -}}

{{/* What the schema cannot say. */}}
{{- define "postern.check" -}}
{{- if include "postern.onVolume" . }}
{{- if or .Values.hpa.enabled (gt (int .Values.replicaCount) 1) }}
{{- fail "users.existingSecret keeps sessions on a volume of one replica: set replicaCount to 1 and hpa.enabled to false, or name a Redis in redis.url" }}
{{- end }}
{{- end }}
{{- if and .Values.redis.existingSecret (not .Values.redis.url) }}
{{- fail "redis.existingSecret stands without redis.url" }}
{{- end }}
{{- if and .Values.redis.caFromSecret (not (and .Values.redis.existingSecret (hasPrefix "rediss://" .Values.redis.url))) }}
{{- fail "redis.caFromSecret needs redis.existingSecret and a redis.url that begins with rediss://" }}
{{- end }}
{{- if and (not (include "postern.endsTls" .)) (not .Values.trustedProxies) (not .Values.config.postern) (not .Values.config.existingConfigMap) }}
{{- fail "trustedProxies must name the network of the ingress's pods: an authorizer answers nobody else" }}
{{- end }}
{{- if eq .Values.mode "sidecar" }}
{{- if not (or .Values.app.image .Values.app.container) }}
{{- fail "mode sidecar needs app.image, or app.container" }}
{{- end }}
{{- if and .Values.sidecar.native (semverCompare "<1.29-0" .Capabilities.KubeVersion.Version) }}
{{- fail "sidecar.native needs Kubernetes 1.29; before, postern would be an init container that never ends: set it to false" }}
{{- end }}
{{- if .Values.metrics.serviceMonitor.enabled }}
{{- fail "metrics.serviceMonitor is not for mode sidecar: its admin listener is on the loopback address" }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (ne .Values.mode "authorizer-http") }}
{{- fail "ingress.enabled is for mode authorizer-http" }}
{{- end }}
{{- if and .Values.gateway.enabled (ne .Values.mode "authorizer-grpc") }}
{{- fail "gateway.enabled is for mode authorizer-grpc" }}
{{- end }}
{{- end -}}

{{/* postern's container, in every mode. */}}
{{- define "postern.container" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
- name: postern
  image: {{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if and $sidecar .Values.sidecar.native }}
  restartPolicy: Always       # what makes an init container a sidecar
  {{- end }}
  args: [run]
  env:
    - name: POSTERN_CONFIG
      value: /etc/postern/config/postern.toml
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- range include "postern.ports" . | fromYamlArray }}
    - name: {{ .name }}
      containerPort: {{ .port }}
    {{- end }}
    {{- if not $sidecar }}
    - name: admin
      containerPort: 9900
    {{- end }}
  {{- if $sidecar }}
  # The admin listener is on the loopback address, where the kubelet's own HTTP probes cannot reach it.
  startupProbe:
    exec:
      command: [/postern, healthcheck, --admin, "127.0.0.1:9900"]
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    exec:
      command: [/postern, healthcheck, --admin, "127.0.0.1:9900"]
    periodSeconds: 5
    timeoutSeconds: 2
  livenessProbe:
    exec:
      command: [/postern, healthcheck, --live, --admin, "127.0.0.1:9900"]
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  {{- else }}
  startupProbe:
    httpGet:
      path: /healthz
      port: admin
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /readyz
      port: admin
    periodSeconds: 2
    failureThreshold: 2
  livenessProbe:
    httpGet:
      path: /healthz
      port: admin
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  {{- end }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- include "postern.confined" . | nindent 4 }}
  volumeMounts:
    # Whole folders: postern watches them, and what is exchanged in them acts without a restart.
    - name: postern-config
      mountPath: /etc/postern/config
      readOnly: true
    - name: postern-secrets
      mountPath: /etc/postern/secrets
      readOnly: true
    {{- if include "postern.endsTls" . }}
    - name: postern-tls
      mountPath: /etc/postern/tls
      readOnly: true
    {{- end }}
    {{- if .Values.users.existingSecret }}
    - name: postern-users
      mountPath: /etc/postern/users
      readOnly: true
    {{- end }}
    {{- if .Values.redis.existingSecret }}
    - name: postern-redis
      mountPath: /etc/postern/redis
      readOnly: true
    {{- end }}
    {{- if or (include "postern.onVolume" .) (and $sidecar (not .Values.redis.url)) }}
    - name: postern-sessions
      mountPath: /var/lib/postern
    {{- end }}
{{- end -}}

{{- define "postern.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The application's container, of mode sidecar. */}}
{{- define "postern.app" -}}
{{- with .Values.app -}}
{{- if .container -}}
- {{ toYaml .container | nindent 2 | trim }}
{{- else -}}
- name: {{ .name }}
  image: {{ .image }}
  imagePullPolicy: {{ .pullPolicy }}
  {{- range $key := list "command" "args" "env" "readinessProbe" "livenessProbe" "volumeMounts" }}
  {{- with get $.Values.app $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  lifecycle:
    {{- if .lifecycle }}
    {{- toYaml .lifecycle | nindent 4 }}
    {{- else }}
    preStop:
      # postern first: it takes new connections for drain.delay, finishes what is in flight and ends; then the application
      # may. A native sidecar is told to end last, so the application tells it.
      exec:
        command:
          - sh
          - -c
          - >-
            wget -q -O /dev/null --post-data= http://127.0.0.1:9900/drain;
            while wget -q -O /dev/null http://127.0.0.1:9900/healthz; do sleep 1; done
    {{- end }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  securityContext:
    {{- include "postern.confined" $ | nindent 4 }}
{{- end -}}
{{- end -}}
{{- end -}}

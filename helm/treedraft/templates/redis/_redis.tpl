{{- define "treedraft.redis.container" -}}
{{- $spec := .Values.redis.bundled -}}
name: redis
image: {{ include "treedraft.image" (dict "root" . "image" $spec.image) }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
command: [redis-server]
# A full store refuses what is new instead of forgetting sessions that run.
args: [--save, "", --appendonly, "no", --dir, /tmp, --maxmemory, {{ $spec.maxMemory }}, --maxmemory-policy, noeviction]
ports:
  - name: redis
    containerPort: 6379
    protocol: TCP
{{- range $probe := list "startupProbe" "readinessProbe" "livenessProbe" }}
{{ $probe }}:
  exec:
    command: [redis-cli, ping]
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
{{- with $spec.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml $spec.resources | nindent 2 }}
securityContext:
  {{- include "treedraft.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end }}

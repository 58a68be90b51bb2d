{{- define "treedraft.redis.url" -}}
redis://{{ include "treedraft.componentName" (dict "root" . "component" "redis") }}.{{ .Release.Namespace }}.svc:6379/0
{{- end }}

{{- define "treedraft.coordinator.env" -}}
{{- $redis := .Values.redis }}
{{- $owned := dict "drain_seconds" .Values.coordinator.drainSeconds }}
{{- if .Values.coordinator.apiKeys.secretName }}
{{- $door := dict "keys_file" "/etc/treedraft/door/keys.toml" "tenant_secret_file" "/etc/treedraft/door/tenant-secret" }}
{{- $owned = set $owned "door" $door }}
{{- end }}
{{- $http := dict "enabled" .Values.coordinator.http.enabled "host" .Values.kubernetes.listen }}
{{- $http = set $http "port" (include "treedraft.port.http" . | int) }}
{{- $owned = set $owned "http" $http }}
{{- $secret := dict }}
{{- if eq $redis.kind "bundled" }}
{{- $owned = set $owned "redis" (include "treedraft.redis.url" .) }}
{{- else if eq $redis.kind "external" }}
{{- $secret = $redis.external.urlSecret }}
{{- if not $secret.name }}
{{- $owned = set $owned "redis" (required "redis.external: give url, or urlSecret with the whole URL" $redis.external.url) }}
{{- end }}
{{- end }}
{{- include "treedraft.env" (dict "root" . "component" "coordinator" "settings" .Values.coordinator.settings "owned" $owned) }}
{{- if $secret.name }}
- name: TREEDRAFT_COORDINATOR__REDIS
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name }}
      key: {{ default "url" $secret.key }}
{{- end }}
{{- end }}

{{- define "treedraft.coordinator.volumes" -}}
{{- include "treedraft.volumes" (dict "root" . "component" "coordinator") }}
{{- with .Values.coordinator.apiKeys.secretName }}
- name: door
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- define "treedraft.coordinator.mounts" -}}
{{- with .Values.coordinator.apiKeys.secretName }}
- name: door
  mountPath: /etc/treedraft/door
  readOnly: true
{{- end }}
{{- end }}

{{- define "treedraft.coordinator.ports" -}}
- name: grpc
  port: {{ include "treedraft.port.grpc" . }}
  targetPort: grpc
  protocol: TCP
  appProtocol: grpc
{{- if .Values.coordinator.http.enabled }}
- name: http
  port: {{ include "treedraft.port.http" . }}
  targetPort: http
  protocol: TCP
{{- end }}
{{- end }}

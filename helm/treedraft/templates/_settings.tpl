{{- /* Settings become environment variables: treedraft itself reads nothing else. */ -}}

{{- define "treedraft.port.grpc" }}50051{{ end }}
{{- define "treedraft.port.http" }}8000{{ end }}
{{- define "treedraft.port.health" }}50059{{ end }}

{{- /* (dict "prefix" "TREEDRAFT_TARGET" "values" map): one variable for each value, by name. */}}
{{- define "treedraft.settings" -}}
{{- $prefix := .prefix }}
{{- range $name, $value := .values }}
{{- $variable := printf "%s__%s" $prefix (upper $name) }}
{{- if kindIs "map" $value }}
{{- include "treedraft.settings" (dict "prefix" $variable "values" $value) }}
{{- else }}
- name: {{ $variable }}
  value: {{ include "treedraft.scalar" $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Numbers as JSON writes them: a template would write 1000000 as 1e+06. */}}
{{- define "treedraft.scalar" -}}
{{- if kindIs "slice" . }}{{ join "," . }}{{ else if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{- /* What every service is told, as JSON. */}}
{{- define "treedraft.settings.shared" -}}
{{- $grpc := dict "host" .Values.kubernetes.listen "advertise" "$(POD_IP)" "grace_seconds" 10 }}
{{- $grpc = set $grpc "port" (include "treedraft.port.grpc" . | int) }}
{{- $grpc = set $grpc "health_port" (include "treedraft.port.health" . | int) }}
{{- $telemetry := dict "log_format" "json" "log_level" .Values.telemetry.logLevel }}
{{- $telemetry = set $telemetry "sample_ratio" .Values.telemetry.sampleRatio }}
{{- $telemetry = set $telemetry "store_path" "/tmp/treedraft/spans.db" }}
{{- with .Values.telemetry.otlpEndpoint }}{{ $telemetry = set $telemetry "otlp_endpoint" . }}{{ end }}
{{- if .Values.metrics.enabled }}
{{- $telemetry = set $telemetry "metrics_port" .Values.metrics.port }}
{{- end }}
{{- dict "grpc" $grpc "telemetry" $telemetry | toJson }}
{{- end }}

{{- /* (dict "root" $ "component" … "settings" user's "owned" the chart's): all variables. */}}
{{- define "treedraft.env" -}}
{{- $shared := include "treedraft.settings.shared" .root | fromJson }}
{{- $owned := include "treedraft.merge" (list $shared .owned) | fromJson }}
{{- $all := include "treedraft.merge" (list .settings $owned) | fromJson }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: HOME
  value: /tmp
{{- include "treedraft.settings" (dict "prefix" (printf "TREEDRAFT_%s" (upper .component)) "values" $all) }}
{{- include "treedraft.tls.env" .root }}
{{- end }}

{{- /* Where workers announce themselves and clients ask. */}}
{{- define "treedraft.coordinator.host" -}}
{{ include "treedraft.componentName" (dict "root" . "component" "coordinator") }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "treedraft.coordinator.endpoint" -}}
{{ include "treedraft.coordinator.host" . }}:{{ include "treedraft.port.grpc" . }}
{{- end }}

{{- /* What the API server can do. Each answer is "true" or nothing. */ -}}

{{- define "treedraft.kubeVersion" -}}
{{- default .Capabilities.KubeVersion.Version .Values.kubernetes.version | trimPrefix "v" }}
{{- end }}

{{- /* (list $ "1.24"): whether the server is of that version or newer. */}}
{{- define "treedraft.since" -}}
{{- $version := include "treedraft.kubeVersion" (index . 0) }}
{{- if semverCompare (printf ">=%s.0-0" (index . 1)) $version }}true{{ end }}
{{- end }}

{{- define "treedraft.api.disruption" -}}
{{- if include "treedraft.since" (list . "1.21") }}policy/v1{{ else }}policy/v1beta1{{ end }}
{{- end }}

{{- define "treedraft.api.autoscaling" -}}
{{- if include "treedraft.since" (list . "1.23") -}}
autoscaling/v2
{{- else -}}
autoscaling/v2beta2
{{- end }}
{{- end }}

{{- define "treedraft.api.imageVolumes" -}}
{{- if or .Values.kubernetes.imageVolumes (include "treedraft.since" (list . "1.35")) }}true{{ end }}
{{- end }}

{{- /* (dict "root" $ "port" "health" "service" "…"): how a probe asks. A server before 1.24 has
       no gRPC probes: there our own command asks. */}}
{{- define "treedraft.probe" -}}
{{- if include "treedraft.since" (list .root "1.24") }}
grpc:
  port: {{ include "treedraft.port.health" . }}
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- else }}
exec:
  command:
    - treedraft
    - health
    - 127.0.0.1:{{ include "treedraft.port.health" . }}
    {{- with .service }}
    - --service={{ . }}
    {{- end }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "seconds" 5): a pause before SIGTERM. */}}
{{- define "treedraft.preStop" -}}
{{- if include "treedraft.since" (list .root "1.30") }}
sleep:
  seconds: {{ .seconds }}
{{- else }}
exec:
  command: [sleep, {{ .seconds | quote }}]
{{- end }}
{{- end }}

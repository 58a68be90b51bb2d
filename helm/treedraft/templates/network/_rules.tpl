{{- /* Pieces of network policies. */ -}}

{{- /* (dict "root" $ "components" (list …) "port" 50051): our own pods, on one port. */}}
{{- define "treedraft.rule.own" -}}
{{- $root := .root -}}
- {{ .side }}:
    {{- range .components }}
    - podSelector:
        matchLabels:
          {{- include "treedraft.selectorLabels" (dict "root" $root "component" .) | nindent 10 }}
    {{- end }}
  ports:
    - port: {{ .port }}
      protocol: TCP
{{- end }}

{{- /* (dict "side" "to" "peers" (list …) "ports" (list …)): others; no peers are all. */}}
{{- define "treedraft.rule.others" -}}
- ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .peers }}
  {{ $.side }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "treedraft.rule.dns" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  {{- with .Values.networkPolicy.dns }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "treedraft.rule.metrics" -}}
{{- if .Values.metrics.enabled }}
{{- include "treedraft.rule.others" (dict "side" "from" "peers" .Values.networkPolicy.scrapers "ports" (list .Values.metrics.port)) }}
{{- end }}
{{- end }}

{{- define "treedraft.rule.collector" -}}
{{- with .Values.telemetry.otlpEndpoint }}
{{- $port := regexFind "[0-9]+$" . | int }}
{{- include "treedraft.rule.others" (dict "side" "to" "peers" $.Values.networkPolicy.collectors "ports" (list $port)) }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "component" …  "ingress" … "egress" …, both YAML): the policy. */}}
{{- define "treedraft.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
{{ include "treedraft.metadata" . }}
spec:
  podSelector:
    matchLabels:
      {{- include "treedraft.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- with .ingress }}
  ingress:
    {{- . | trim | nindent 4 }}
  {{- end }}
  {{- with .egress }}
  egress:
    {{- . | trim | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* Who may ask coordinators: clients, our own workers and `helm test`. */}}
{{- define "treedraft.rule.coordinator" -}}
{{- $grpc := include "treedraft.port.grpc" . }}
{{- $ours := list "target" "draft" "test" }}
{{- if eq .Values.autoscaling.kind "treedraft" }}{{ $ours = append $ours "autoscaler" }}{{ end }}
{{- include "treedraft.rule.own" (dict "root" . "side" "from" "components" $ours "port" $grpc) }}
{{- $ports := list $grpc }}
{{- if .Values.coordinator.http.enabled }}{{ $ports = append $ports (include "treedraft.port.http" .) }}{{ end }}
{{ include "treedraft.rule.others" (dict "side" "from" "peers" .Values.networkPolicy.clients "ports" $ports) }}
{{- end }}

{{- /* (dict "root" $ "component" …): the way to models, if any of its pools fetches one. */}}
{{- define "treedraft.rule.download" -}}
{{- $fetches := false }}
{{- range include "treedraft.pools" . | fromJson }}
{{- if eq .model.source "hub" }}{{ $fetches = true }}{{ end }}
{{- end }}
{{- if $fetches }}
{{- include "treedraft.rule.others" (dict "side" "to" "peers" .root.Values.networkPolicy.download "ports" (list 443)) }}
{{- end }}
{{- end }}

{{- /* Objects that several components have. */ -}}

{{- define "treedraft.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
{{ include "treedraft.metadata" . }}
automountServiceAccountToken: false
{{- end }}

{{- /* Parameters: root, component, pool, spec. */}}
{{- define "treedraft.disruptionBudget" -}}
apiVersion: {{ include "treedraft.api.disruption" .root }}
kind: PodDisruptionBudget
{{ include "treedraft.metadata" . }}
spec:
  maxUnavailable: {{ default 1 .spec.maxUnavailable }}
  {{- if include "treedraft.since" (list .root "1.27") }}
  # A pod that is not ready serves nobody: it never stands in the way of a node's maintenance.
  unhealthyPodEvictionPolicy: AlwaysAllow
  {{- end }}
  selector:
    matchLabels:
      {{- include "treedraft.selectorLabels" . | nindent 6 }}
{{- end }}

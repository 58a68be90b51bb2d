{{- /* (dict "root" $ "component" … "pool" … "spec" …): whether something else than values decides
       its size. Our own autoscaler leaves drafters alone that no pool of targets names. */}}
{{- define "treedraft.isScaled" -}}
{{- if eq .root.Values.autoscaling.kind "treedraft" }}
{{- $name := include "treedraft.componentName" . }}
{{- range include "treedraft.autoscaler.workloads" .root | fromJsonArray }}
{{- if eq .name $name }}true{{ end }}
{{- end }}
{{- else if and (ne .root.Values.autoscaling.kind "none") .spec.scaling.enabled }}true{{ end }}
{{- end }}

{{- /* (dict "root" $ "component" … "pool" … "spec" …): reference to its workload. */}}
{{- define "treedraft.scaleTarget" -}}
apiVersion: apps/v1
kind: {{ .spec.workload }}
name: {{ include "treedraft.componentName" . }}
{{- end }}

{{- define "treedraft.hpa" -}}
{{- if lt (int .spec.scaling.minReplicas) 1 }}
{{- fail (printf "%sPools.%s.scaling.minReplicas: a HorizontalPodAutoscaler keeps at least 1; use keda for 0" .component .pool) }}
{{- end -}}
apiVersion: {{ include "treedraft.api.autoscaling" .root }}
kind: HorizontalPodAutoscaler
{{ include "treedraft.metadata" . }}
spec:
  scaleTargetRef:
    {{- include "treedraft.scaleTarget" . | nindent 4 }}
  minReplicas: {{ .spec.scaling.minReplicas }}
  maxReplicas: {{ .spec.scaling.maxReplicas }}
  metrics:
    - type: Pods
      pods:
        metric:
          name: {{ .root.Values.autoscaling.hpa.metric }}
        target:
          type: AverageValue
          averageValue: {{ .spec.scaling.sessionsPerReplica | quote }}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: {{ .root.Values.autoscaling.hpa.scaleDownSeconds }}
{{- end }}

{{- /* (dict "root" $ "pods" regex "metrics" (list …)): their sum, 0 where there is no pod. */}}
{{- define "treedraft.sum" -}}
{{- $terms := list }}
{{- range .metrics }}
{{- $terms = append $terms (printf "(sum(%s{namespace=%q,pod=~%q}) or vector(0))" . $.root.Release.Namespace $.pods) }}
{{- end }}
{{- join " + " $terms }}
{{- end }}

{{- /* Sessions that want the pool: a target's own, and what waits at the door. Drafters are wanted
       by the sessions of targets: their own number says nothing while there are none. */}}
{{- define "treedraft.demand" -}}
{{- $name := include "treedraft.fullname" .root }}
{{- if eq .component "target" }}
{{- include "treedraft.sum" (dict "root" .root "pods" (printf "%s-target-%s-.+" $name .pool) "metrics" (list "treedraft_sessions" "treedraft_sessions_waiting")) }}
{{- print " + " }}
{{- include "treedraft.sum" (dict "root" .root "pods" (printf "%s-coordinator-.+" $name) "metrics" (list "treedraft_sessions_waiting")) }}
{{- else }}
{{- include "treedraft.sum" (dict "root" .root "pods" (printf "%s-target-.+" $name) "metrics" (list "treedraft_sessions")) }}
{{- end }}
{{- end }}

{{- define "treedraft.scaledObject" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
{{ include "treedraft.metadata" . }}
spec:
  scaleTargetRef:
    {{- include "treedraft.scaleTarget" . | nindent 4 }}
  pollingInterval: {{ .root.Values.autoscaling.keda.pollingSeconds }}
  cooldownPeriod: {{ .root.Values.autoscaling.keda.cooldownSeconds }}
  minReplicaCount: {{ .spec.scaling.minReplicas }}
  maxReplicaCount: {{ .spec.scaling.maxReplicas }}
  triggers:
    - type: prometheus
      metadata:
        serverAddress: {{ .root.Values.autoscaling.keda.prometheus }}
        query: {{ include "treedraft.demand" . | squote }}
        threshold: {{ .spec.scaling.sessionsPerReplica | quote }}
{{- end }}

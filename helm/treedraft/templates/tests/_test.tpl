{{- define "treedraft.test.container" -}}
{{- $spec := .Values.tests -}}
name: generate
image: {{ include "treedraft.image" (dict "root" . "image" .Values.images.control) }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
args:
  - generate
  - --endpoint={{ include "treedraft.coordinator.endpoint" . }}
  {{- with $spec.model }}
  - --model={{ . }}
  {{- end }}
  - --max-tokens={{ $spec.tokens }}
  - {{ $spec.prompt | quote }}
env:
  - name: HOME
    value: /tmp
  {{- include "treedraft.tls.env" . | nindent 2 }}
  {{- with $spec.apiKeySecret }}
  {{- if .name }}
  - name: TREEDRAFT_API_KEY
    valueFrom:
      secretKeyRef:
        name: {{ .name }}
        key: {{ default "key" .key }}
  {{- end }}
  {{- end }}
resources:
  {{- toYaml $spec.resources | nindent 2 }}
securityContext:
  {{- include "treedraft.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if .Values.tls.enabled }}
  - name: tls
    mountPath: /etc/treedraft/tls
    readOnly: true
  {{- end }}
{{- end }}

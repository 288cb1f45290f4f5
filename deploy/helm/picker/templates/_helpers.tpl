{{/* Names and lists that more than one template needs. */}}

{{- define "picker.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Unique in the cluster. */}}
{{- define "picker.clusterName" -}}
{{- printf "%s-%s" (include "picker.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "picker.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "picker.labels" -}}
{{ include "picker.selectorLabels" . }}
app.kubernetes.io/component: endpoint-picker
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The metadata that every namespaced object of the release has. */}}
{{- define "picker.metadata" -}}
name: {{ include "picker.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "picker.labels" . | nindent 2 }}
{{- end -}}

{{- define "picker.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "picker.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "picker.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}
{{- else -}}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{- end -}}
{{- end -}}

{{- define "picker.standalone" -}}{{ if eq .Values.gateway "standalone" }}true{{ end }}{{- end -}}

{{- define "picker.leads" -}}
{{- if and (gt (int .Values.replicas) 1) (eq .Values.replication "active-passive") }}true{{ end -}}
{{- end -}}

{{- define "picker.secure" -}}{{ if and .Values.tls.enabled (ne .Values.gateway "standalone") }}true{{ end }}{{- end -}}

{{- define "picker.configMap" -}}
{{- if .Values.existingConfigMap -}}{{ .Values.existingConfigMap }}
{{- else if or .Values.config .Values.poolConfigs -}}{{ include "picker.fullname" . }}-config
{{- end -}}
{{- end -}}

{{/* Of the InferencePool that is made here. */}}
{{- define "picker.poolName" -}}{{ .Values.inferencePool.name | default (include "picker.fullname" .) }}{{- end -}}

{{/* The pools by name, a JSON list: as they are given, or the one made here. */}}
{{- define "picker.pools" -}}
{{- if .Values.inferencePool.create -}}{{ list (include "picker.poolName" .) | toJson }}{{ else }}{{ .Values.pools | toJson }}{{ end -}}
{{- end -}}

{{/* More Services, a JSON list of names: gateways tell one of several pools by the Service they call. */}}
{{- define "picker.poolServices" -}}
{{- $names := .Values.service.names -}}
{{- if and (not $names) (gt (len .Values.pools) 1) -}}
{{- range .Values.pools -}}
{{- if not (contains "/" .) }}{{ $names = append $names (printf "%s-%s" (include "picker.fullname" $) . | trunc 63 | trimSuffix "-") }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $names | toJson -}}
{{- end -}}

{{/* The namespaces pods and pools are read in, a JSON list without repeats. */}}
{{- define "picker.namespaces" -}}
{{- $namespaces := list -}}
{{- range include "picker.pools" . | fromJsonArray -}}
{{- $namespaces = append $namespaces (ternary (splitList "/" . | first) $.Release.Namespace (contains "/" .)) -}}
{{- end -}}
{{- $namespaces | default (list .Release.Namespace) | uniq | toJson -}}
{{- end -}}

{{/* Ports of the model servers as far as they are known, a JSON list. */}}
{{- define "picker.modelServerPorts" -}}
{{- if .Values.networkPolicy.modelServerPorts -}}{{ .Values.networkPolicy.modelServerPorts | toJson }}
{{- else if .Values.inferencePool.create -}}{{ .Values.inferencePool.targetPorts | toJson }}
{{- else if .Values.endpointSelector -}}{{ .Values.targetPorts | toJson }}
{{- else -}}[]{{- end -}}
{{- end -}}

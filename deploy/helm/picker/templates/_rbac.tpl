{{/* Binds a Role to picker's account; root, name, namespace. */}}
{{- define "picker.roleBinding" }}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "picker.labels" .root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "picker.serviceAccount" .root }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}

{{/* What a Role that reads it by name must know, so it is told to `picker serve` too. */}}
{{- define "picker.leaseName" -}}
{{- .Values.leaseName | default (include "picker.fullname" .) -}}
{{- end -}}

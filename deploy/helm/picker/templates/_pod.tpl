{{/* Parts of the pod. */}}

{{- define "picker.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The drain, what comes before it, and time to end. */}}
{{- define "picker.gracePeriod" -}}
{{- $sleep := ternary 0 (int .Values.preStopSleepSeconds) (eq (include "picker.leads" .) "true") -}}
{{- add (int .Values.drainTimeoutSeconds) $sleep 10 -}}
{{- end -}}

{{/* Whole directories, no subPath: only these follow what they hold. */}}
{{- define "picker.volumeMounts" -}}
{{- if include "picker.configMap" . }}
- {name: config, mountPath: /etc/picker/config, readOnly: true}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /etc/picker/tls, readOnly: true}
{{- end }}
{{- if .Values.tls.clientCaConfigMap }}
- {name: client-ca, mountPath: /etc/picker/client-ca, readOnly: true}
{{- end }}
{{- if .Values.metrics.tlsSecretName }}
- {name: metrics-tls, mountPath: /etc/picker/metrics-tls, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "picker.volumes" -}}
{{- with include "picker.configMap" . }}
- name: config
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.tls.secretName }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.tls.clientCaConfigMap }}
- name: client-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.metrics.tlsSecretName }}
- name: metrics-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- if include "picker.standalone" . }}
- name: envoy
  configMap: {name: {{ include "picker.fullname" . }}-envoy}
{{- end }}
{{- end -}}

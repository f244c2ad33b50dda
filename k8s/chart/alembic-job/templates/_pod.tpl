{{/* What the containers have in common: a dict of root, name, args, settings and volume, the beginning of the volumes' names. */}}
{{- define "alembic-job.container" -}}
{{- $values := .root.Values -}}
name: {{ .name }}
image: {{ include "alembic-job.image" .root | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
{{- with $values.command }}
command:
  {{- toYaml . | nindent 2 }}
{{- end }}
args:
  {{- toYaml .args | nindent 2 }}
env:
  {{- include "alembic-job.env" . | trim | nindent 2 }}
{{- with $values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  {{- range $key := list "runAsUser" "runAsGroup" }}
  {{- with get ($values.podSecurityContext | default dict) $key }}
  {{ $key }}: {{ int64 . }}
  {{- end }}
  {{- end }}
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
terminationMessagePolicy: FallbackToLogsOnError
resources:
  {{- toYaml $values.resources | nindent 2 }}
volumeMounts:
  - name: {{ .volume }}tmp
    mountPath: /tmp
  {{- if include "alembic-job.secretName" .root }}
  - name: {{ .volume }}database
    mountPath: /run/secrets/database
    readOnly: true
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Their volumes: a dict of root, volume and mode. */}}
{{- define "alembic-job.volumes" -}}
- name: {{ .volume }}tmp # for env.py; the program itself writes no files
  emptyDir:
    sizeLimit: 64Mi
{{- with include "alembic-job.secretName" .root }}
- name: {{ $.volume }}database # all of it, with a certificate beside the URL, say
  secret:
    secretName: {{ . }}
    optional: {{ include "alembic-job.optional" $.root }}
    defaultMode: {{ $.mode }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A pod of its own: a dict of root, component, name, args and settings. */}}
{{- define "alembic-job.podSpec" -}}
{{- $values := .root.Values -}}
restartPolicy: Never
terminationGracePeriodSeconds: {{ int64 $values.terminationGracePeriodSeconds }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "alembic-job.serviceAccountName" .root }}
serviceAccountName: {{ . }}
{{- end }}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
  {{- range $key, $value := $values.podSecurityContext }}
  {{- with $value }}
  {{- toYaml (dict $key .) | nindent 2 }}
  {{- end }}
  {{- end }}
containers:
  - {{ merge (dict "volume" "") . | include "alembic-job.container" | nindent 4 | trim }}
volumes:
  {{- /* 0440: the group is fsGroup's. Without one only "others" can read it. */}}
  {{- $mode := get ($values.podSecurityContext | default dict) "fsGroup" | empty | ternary "0444" "0440" }}
  {{- dict "root" .root "volume" "" "mode" $mode | include "alembic-job.volumes" | nindent 2 }}
{{- end }}

{{- define "alembic-job.jobSpec" -}}
{{- $labels := dict "app.kubernetes.io/component" "migrate" -}}
{{- $still := dict "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" "karpenter.sh/do-not-disrupt" "true" -}}
backoffLimit: {{ include "alembic-job.backoffLimit" . }}
{{- with .Values.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ int64 . }}
{{- end }}
{{- /* Helm forgets what a release made that failed, and Flux tries again every few minutes, with a new Job each time. */}}
{{- with get (dict "job" 604800 "flux" 86400) .Values.mode }}
ttlSecondsAfterFinished: {{ kindIs "invalid" $.Values.ttlSecondsAfterFinished | ternary . $.Values.ttlSecondsAfterFinished | int64 }}
{{- end }}
# The first rule that matches decides. What no rule names is retried: "retryable: true", and kills.
podFailurePolicy:
  rules:
    - action: FailJob # trying again cannot help, whatever ended the pod
      onExitCodes:
        containerName: migrate
        operator: In
        values: [2, 11, 12, 13, 30, 31, 32, 33, 34, 35, 36, 40, 41, 42, 44, 45]
      onPodConditions: [] # says nothing; the schemas of Kubernetes 1.27 and 1.28 demand it
    - action: Ignore # a drained node or a preemption is no failed attempt
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
template:
  metadata:
    labels:
      {{- list .Values.podLabels (include "alembic-job.podLabels" . | fromYaml) $labels | include "alembic-job.overlay" | nindent 6 }}
    annotations:
      {{- list $still .Values.podAnnotations | include "alembic-job.overlay" | nindent 6 }}
  spec:
    {{- $settings := include "alembic-job.settings" . | fromYaml }}
    {{- dict "root" . "name" "migrate" "args" .Values.args "settings" $settings | include "alembic-job.podSpec" | nindent 4 }}
{{- end }}

{{/* Changes a copy of the values: the pods that wait may have the application's own login. */}}
{{- define "alembic-job.ofTheApplication" -}}
{{- with .database.waitSecret }}{{ $_ := set $.database "existingSecret" . }}{{ $_ := set $.database "url" "" }}{{ end -}}
{{- end }}

{{/*
For the application's Deployment: the init container that waits until the Job has migrated, and its volumes. Both are lists,
called by the parent chart with this chart's scope. What only "upgrade" asks for is left out, so that a change of it does not
roll the application; so is the sidecar's URL: the application needs the sidecar.

  initContainers:
    {{- include "alembic-job.wait" (index .Subcharts "alembic-job") | nindent 8 }}
  volumes:
    {{- include "alembic-job.waitVolumes" (index .Subcharts "alembic-job") | nindent 8 }}
*/}}
{{- define "alembic-job.wait" -}}
{{- include "alembic-job.check" . -}}
{{- $ofTheJob := list "DDL_LOCK_TIMEOUT" "DDL_RETRY_FOR" "LOCK" "LOCK_TIMEOUT" "ON_EDITED" "ON_UNMANAGED" "PLAN" "RESUME" "SIDECAR_QUIT_URL" "STATEMENT_TIMEOUT" "STOP_GRACE" "TIMEOUT" "TRANSACTION" -}}
{{- $values := deepCopy .Values -}}
{{- include "alembic-job.ofTheApplication" $values -}}
{{- $settings := $values.settings | default dict -}}
{{- range $ofTheJob }}{{ $_ := unset $settings . }}{{ end -}}
{{- $variables := list -}}
{{- range $values.extraEnv }}{{ if not (has (trimPrefix "ALEMBIC_JOB_" .name) $ofTheJob) }}{{ $variables = append $variables . }}{{ end }}{{ end -}}
{{- $_ := set $values "extraEnv" $variables -}}
- {{ dict "root" (dict "Values" $values "Chart" .Chart "Release" .Release) "name" (printf "%s-wait" .Chart.Name) "args" (list "wait") "settings" $settings "volume" (printf "%s-" .Chart.Name) | include "alembic-job.container" | nindent 2 | trim }}
{{- end }}

{{/* 0444: the group of the application's pod is not known here, and only the containers that mount it see the file. */}}
{{- define "alembic-job.waitVolumes" -}}
{{- $values := deepCopy .Values -}}
{{- include "alembic-job.ofTheApplication" $values -}}
{{- dict "root" (dict "Values" $values "Chart" .Chart "Release" .Release) "volume" (printf "%s-" .Chart.Name) "mode" "0444" | include "alembic-job.volumes" }}
{{- end }}

-- name: deployment
SELECT secret FROM signal_deployment;

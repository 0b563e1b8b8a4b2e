# What the Ray pods may do, and who may be them. Listing is per bucket: without it a missing object answers 403.

locals {
  sources = concat([aws_s3_bucket.results.arn], [for name in var.source_buckets : "arn:aws:s3:::${name}"])
  issuer  = replace(var.oidc_provider_arn, "/^.*:oidc-provider\\//", "")
}

resource "aws_iam_policy" "runs" {
  name = "${var.name}-runs"

  policy = templatefile("${path.module}/policy.json.tftpl", {
    results = jsonencode([aws_s3_bucket.results.arn])
    written = jsonencode([for o in var.outputs : o == "" ? "${aws_s3_bucket.results.arn}/*" : "${aws_s3_bucket.results.arn}/${o}/*"])
    sources = jsonencode(local.sources)
    read    = jsonencode([for arn in local.sources : "${arn}/*"])
  })
}

data "aws_iam_policy_document" "key" {
  count = var.kms_key_arn != "" ? 1 : 0

  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.kms_key_arn]
  }
}

resource "aws_iam_policy" "key" {
  count  = var.kms_key_arn != "" ? 1 : 0
  name   = "${var.name}-key"
  policy = data.aws_iam_policy_document.key[0].json
}

# Pods with these service accounts, and no others.
data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = [for account in var.service_accounts : "system:serviceaccount:${var.namespace}:${account}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "runs" {
  name               = var.name
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy_attachment" "runs" {
  role       = aws_iam_role.runs.name
  policy_arn = aws_iam_policy.runs.arn
}

resource "aws_iam_role_policy_attachment" "key" {
  count      = var.kms_key_arn != "" ? 1 : 0
  role       = aws_iam_role.runs.name
  policy_arn = aws_iam_policy.key[0].arn
}
